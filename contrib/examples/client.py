"""A turn of a conversation with Python's standard library:  python3 contrib/examples/client.py"""
import json, os, socket

home = os.environ.get("KHEISH_HOME", os.path.expanduser("~/.kheish"))
params = {"sender": "python", "content": "Hello from Python", "wait": "settled"}
with socket.socket(socket.AF_UNIX) as daemon:
    daemon.connect(home + "/run/kheishd.sock")
    daemon.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "conversation.send", "params": params}).encode() + b"\n")
    print(json.loads(daemon.makefile().readline())["result"]["output"])
