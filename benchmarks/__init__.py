"""What `make bench` calls: speed against what one would do without this project."""
