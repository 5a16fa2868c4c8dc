"""What is stored: tar members, indexes, listings and the hashes of content."""
