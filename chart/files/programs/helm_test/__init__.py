"""What `helm test` runs."""
