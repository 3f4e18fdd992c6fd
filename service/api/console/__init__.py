"""The console: one static page that shows what the API says, and the live figures that it reads."""
