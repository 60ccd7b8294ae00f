"""What strangers try, each attack as a program: what it must not get them."""
