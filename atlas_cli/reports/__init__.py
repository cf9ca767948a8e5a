"""What people read: progress, tables, pictures and the HTML page, all from the records of ``atlas_cli.runs``."""
