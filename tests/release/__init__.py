"""What is released: wheels and source distributions in `dist`, as `make wheels` leaves them, and how they are made."""
