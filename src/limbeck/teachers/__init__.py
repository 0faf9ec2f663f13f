"""Who knows: models, servers and stores, behind one method."""
