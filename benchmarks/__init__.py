"""What README and docs quote, each runnable by one command. Not part of the installed package."""
