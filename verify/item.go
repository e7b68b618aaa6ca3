package verify

import (
	"encoding/json"
	"fmt"
	"time"
)

// source is a subscription that is followed.
type source string

const (
	ofMessages     source = "messageAdded"
	ofConversation source = "conversationEvents"
	ofEverything   source = "events"
)

// The kinds of events and other items that the law knows, as the schema has them.
const (
	conversationCreated = "ConversationCreated"
	memberAdded         = "MemberAdded"
	memberRemoved       = "MemberRemoved"
	messageAdded        = "MessageAdded"
	messageEdited       = "MessageEdited"
	messageDeleted      = "MessageDeleted"
	reactionAdded       = "ReactionAdded"
	reactionRemoved     = "ReactionRemoved"
	caughtUp            = "CaughtUp"
	conversationJoined  = "ConversationJoined"
	conversationLeft    = "ConversationLeft"
	streamReset         = "StreamReset"
)

const (
	messageFields = `fragment M on Message { id seq content editedAt deletedAt }`
	eventFields   = messageFields + ` fragment E on ConversationEvent { seq at
	... on MemberAdded { user { id } }
	... on MemberRemoved { user { id } }
	... on MessageAdded { added: message { ...M } }
	... on MessageEdited { message { ...M } }
	... on MessageDeleted { message { ...M } }
	... on ReactionAdded { message { ...M } user { id } emoji count }
	... on ReactionRemoved { message { ...M } user { id } emoji count } }`

	// It asks for something that may have come after the message, which is for those alone who are
	// still members.
	messagesQuery = `subscription ($c: ID!, $a: Int) {
	messageAdded(conversationId: $c, afterSeq: $a) { id seq content conversation { lastMessage { seq } } } }`
	conversationQuery = `subscription ($c: ID!, $a: Int) {
	conversationEvents(conversationId: $c, afterSeq: $a) { __typename ...E } } ` + eventFields
	everythingQuery = `subscription ($a: String) {
	events(after: $a) { cursor conversationId event { __typename ...E } } } ` + eventFields
)

// message is one as a client sees it. One that is deleted has no content.
type message struct {
	ID        string     `json:"id"`
	Seq       int64      `json:"seq"`
	Content   string     `json:"content"`
	EditedAt  *time.Time `json:"editedAt"`
	DeletedAt *time.Time `json:"deletedAt"`
}

func (m message) String() string { return fmt.Sprintf("seq %d, %s %s", m.Seq, m.ID, quoted(m.Content)) }

type named struct{ ID string }

// event is one as a client sees it, of any kind. What messageAdded delivers is a MessageAdded
// without a time.
type event struct {
	Kind string `json:"__typename"`
	Seq  int64
	At   time.Time
	// the first of a MessageAdded, the second of the others that are about one
	Added, Message *message
	User           *named
	Emoji          string
	Count          int
}

func arrival(m message) event { return event{Kind: messageAdded, Seq: m.Seq, Added: &m} }

// subject is the message that an event is about, if it has one.
func (e event) subject() *message {
	if e.Added != nil {
		return e.Added
	}
	return e.Message
}

// person is whom an event is about.
func (e event) person() string {
	if e.User == nil {
		return ""
	}
	return e.User.ID
}

func (e event) String() string {
	switch m := e.subject(); {
	case e.Kind == messageAdded && m != nil:
		return m.String()
	case m != nil:
		return fmt.Sprintf("seq %d, %s %s %s: %s", e.Seq, e.Kind, e.Emoji, e.person(), m)
	}
	return fmt.Sprintf("seq %d, %s %s %s", e.Seq, e.Kind, e.Emoji, e.person())
}

// item is what a stream delivers: an event and, of everything, where it happened, and the cursor
// behind it.
type item struct {
	event
	conversation, cursor string
	// the seq of the conversation's last message, which came with it; 0 where that was not asked
	// for
	newest int64
}

// delivered reads a next frame: an item, or the errors that came instead. Contents are made brief.
func (f frame) delivered() (it *item, errs []apiError, err error) {
	var payload struct {
		Data *struct {
			MessageAdded *struct {
				message
				Conversation struct{ LastMessage struct{ Seq int64 } }
			}
			ConversationEvents *event
			Events             *struct {
				Cursor, ConversationID string
				Event                  event
			}
		}
		Errors []apiError
	}
	if err := json.Unmarshal(f.Payload, &payload); err != nil {
		return nil, nil, err
	}
	if payload.Data == nil || len(payload.Errors) > 0 {
		return nil, payload.Errors, nil
	}
	switch d := payload.Data; {
	case d.MessageAdded != nil:
		it = &item{event: arrival(d.MessageAdded.message), newest: d.MessageAdded.Conversation.LastMessage.Seq}
	case d.ConversationEvents != nil:
		it = &item{event: *d.ConversationEvents}
	case d.Events != nil:
		it = &item{event: d.Events.Event, conversation: d.Events.ConversationID, cursor: d.Events.Cursor}
	default:
		return nil, nil, nil
	}
	if m := it.subject(); m != nil {
		m.Content = brief(m.Content)
	}
	return it, nil, nil
}
