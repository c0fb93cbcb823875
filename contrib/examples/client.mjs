// A turn of a conversation with Node's standard library:  node contrib/examples/client.mjs
import { connect } from "node:net";
import { createInterface } from "node:readline";
const daemon = connect((process.env.KHEISH_HOME ?? `${process.env.HOME}/.kheish`) + "/run/kheishd.sock");
const params = { sender: "node", content: "Hello from Node", wait: "settled" };
daemon.write(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "conversation.send", params }) + "\n");
createInterface({ input: daemon }).once("line", (line) => daemon.end(console.log(JSON.parse(line).result.output)));
