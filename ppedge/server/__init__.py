"""The server: one loaded model and its owner's personas, behind OpenAI's protocol and a page.

Above `ppedge.personalizer`, below `ppedge.cli`. Only this room knows HTTP, and only it may import
starlette and uvicorn (extra ``server``). What may not enter here: how an answer is made, and how
notes are kept.
"""
