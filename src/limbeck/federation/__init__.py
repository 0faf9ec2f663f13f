"""What crosses between clients and their server, and what the server makes of it. No row of a client is here."""
