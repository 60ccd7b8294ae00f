"""What `funkenshield top` shows: a daemon that runs, live, on a terminal; and what keys have it do."""
