package client

import "encoding/json"

// Subprotocol is the WebSocket subprotocol of GraphQL that Parley speaks
// (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md).
const Subprotocol = "graphql-transport-ws"

// Message is a message of the subprotocol.
type Message struct {
	ID      string          `json:"id,omitempty"` // of the operation
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Types of messages.
const (
	TypeInit      = "connection_init"
	TypeAck       = "connection_ack"
	TypePing      = "ping"
	TypePong      = "pong"
	TypeSubscribe = "subscribe"
	TypeNext      = "next"
	TypeError     = "error"
	TypeComplete  = "complete"
)

// Codes of close frames.
const (
	CloseNone      = -1   // the connection ended without a close frame
	CloseRestart   = 1012 // the node stops
	CloseForbidden = 4403 // the session or the token is not valid, or no longer
)

// Init opens a connection. An empty token makes it anonymous.
func Init(token string) (Message, error) {
	payload := map[string]string{}
	if token != "" {
		payload["Authorization"] = "Bearer " + token
	}
	return message("", TypeInit, payload)
}

// Subscribe starts an operation.
func Subscribe(id string, operation Operation) (Message, error) {
	return message(id, TypeSubscribe, operation)
}

func message(id, kind string, payload any) (Message, error) {
	body, err := json.Marshal(payload)
	return Message{ID: id, Type: kind, Payload: body}, err
}
