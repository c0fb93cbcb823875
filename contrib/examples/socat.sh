#!/bin/sh
# A turn of a conversation with socat:  contrib/examples/socat.sh
socket="${KHEISH_HOME:-$HOME/.kheish}/run/kheishd.sock"
send='{"jsonrpc":"2.0","id":1,"method":"conversation.send","params":{"sender":"socat","content":"Hello from socat","wait":"settled"}}'
echo "$send" | socat -t 600 - "UNIX-CONNECT:$socket"
