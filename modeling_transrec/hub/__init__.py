"""What goes to the Hub and comes back: cards and repositories."""
