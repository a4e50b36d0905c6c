"""What a song is: audio, lyrics, alignment. Pure values on the CPU; no model lives here."""
