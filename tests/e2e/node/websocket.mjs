// json-rpc-2.0 over a WebSocket with a bearer token: node websocket.mjs URL, the token on stdin.
// Prints one JSON document: what a conversation of two turns, an error and a batch gave.
import { readFileSync } from "node:fs";
import { JSONRPCClient, createJSONRPCRequest } from "json-rpc-2.0";
import WebSocket from "ws";

const token = readFileSync(0, "utf8").trim();
const socket = new WebSocket(process.argv[2], { headers: { authorization: `Bearer ${token}` } });
await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));

const client = new JSONRPCClient((request) => socket.send(JSON.stringify(request)));
socket.on("message", (data, binary) => client.receive(JSON.parse(data.toString())));

const say = (content) =>
  client.request("conversation.send", { sender: "stock", content, wait: "settled" });
const first = await say("The lamp is green.");
const second = await say("What did I say before?");
const refusal = await client.request("run.get", { run_id: "run_nobody" }).then(
  () => null,
  (error) => ({ code: error.code, reason: error.data.reason }),
);
const batch = await client.requestAdvanced([
  createJSONRPCRequest(101, "rpc.ping", {}),
  createJSONRPCRequest(102, "no.such.method", {}),
]);
socket.close();
console.log(JSON.stringify({ first, second, refusal, batch }));
