"""A streamed turn over a WebSocket (pip install websockets):  KHEISH_TOKEN=... python3 contrib/examples/websocket.py [URL]"""
import json, os, sys
from websockets.sync.client import connect

url = sys.argv[1] if sys.argv[1:] else "ws://127.0.0.1:7707/rpc"
params = {"sender": "websocket", "content": "Hello from a WebSocket", "wait": "settled", "stream": True}
with connect(url, additional_headers={"Authorization": f"Bearer {os.environ['KHEISH_TOKEN']}"}) as daemon:
    daemon.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "conversation.send", "params": params}))
    answer = next(message for message in map(json.loads, daemon) if message.get("id") == 1)  # Others are live text and events.
    print(answer["result"]["output"])
