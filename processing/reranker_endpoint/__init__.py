"""What goes to the re-rank endpoint: the script that its container runs, and the archive that both travel in."""
