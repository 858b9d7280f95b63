"""The torch side: encoders, towers, losses, training, export."""
