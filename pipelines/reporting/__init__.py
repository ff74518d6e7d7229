"""What the report is made of: tiles of images, plots as rows of a table, and the views the template prints."""
