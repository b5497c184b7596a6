"""What the programs of both pods share."""
