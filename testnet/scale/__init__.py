"""What a large network costs each role, from constants measured on this machine."""
