"""A page to play on with a trained run.

settings -> what a press of the button asks for; as a link, and as the command that does the same
engine   -> the run, and what is drawn with it while someone watches
page     -> the page
"""
