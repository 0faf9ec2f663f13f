"""Data that was not there: pictures made of what a teacher knows."""
