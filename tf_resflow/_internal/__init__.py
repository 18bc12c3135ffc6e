"""What the packages of the library share, and users never import."""
