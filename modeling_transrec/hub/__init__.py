"""Makes cards and repositories, which go to the Hub and come back."""
