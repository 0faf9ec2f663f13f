"""What a term trains or keeps beside the student, and what is never delivered."""
