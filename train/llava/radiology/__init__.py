"""What is about reports: how releases are read, what reports state, checks that refuse a bad experiment."""
