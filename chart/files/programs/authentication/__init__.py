"""How a cache proves to an upstream who it is: Secrets, challenges, token servers and tokens."""
