"""What a run leaves behind: files always, and a dashboard where one is wanted."""
