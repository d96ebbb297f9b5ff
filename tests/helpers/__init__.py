"""What several tests share: small networks and runs, reports by hand, broken backends, drawn specs."""
