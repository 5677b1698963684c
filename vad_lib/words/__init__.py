"""Words about findings: a vision language model describes what a detector found, and people correct it.

The detector decides; the model describes. Nothing here changes a prediction, and nothing here is on the way of a
result: requests wait in the database until a process that has nothing else to do asks the endpoint. What a model
replies is text of strangers: it is checked, bounded and shown, and never run, fetched or linked.

Here belongs what is asked, how it is asked, and what is kept. Pages and commands are elsewhere.
"""
