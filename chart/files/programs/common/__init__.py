"""Modules that the programs of the cache pods and of the nodes share; they import no other package of ours."""
