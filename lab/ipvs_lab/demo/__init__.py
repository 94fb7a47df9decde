"""`make demo`: the agent on real hosts of a lab kernel, with traffic, told as a story whose numbers are measured.

page.py       how it looks: headings, commands with their output, bars, edits
newcomers.py  new connections all the time, and the gap in their answers
stage.py      the network, the manifests directory, the agents as processes
story.py      the story with the manifests of examples/demo
yours.py      the same network with somebody's own manifests
"""
