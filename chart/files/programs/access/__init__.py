"""Who may pull what, where each puller shows credentials of their own."""
