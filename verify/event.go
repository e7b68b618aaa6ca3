package verify

import (
	"encoding/json"
	"fmt"
	"time"

	api "parley/internal/client"
)

// source is a subscription of the API.
type source string

const (
	ofMessages     source = "messageAdded"
	ofConversation source = "conversationEvents"
	ofEverything   source = "events"
)

// Kinds of events and other items, as the schema names them.
const (
	conversationCreated = "ConversationCreated"
	memberAdded         = "MemberAdded"
	memberRemoved       = "MemberRemoved"
	messageAdded        = "MessageAdded"
	messageEdited       = "MessageEdited"
	messageDeleted      = "MessageDeleted"
	reactionAdded       = "ReactionAdded"
	reactionRemoved     = "ReactionRemoved"
	historyRestored     = "HistoryRestored"
	caughtUp            = "CaughtUp"
	conversationJoined  = "ConversationJoined"
	conversationLeft    = "ConversationLeft"
	streamReset         = "StreamReset"
)

const (
	messageFields = `fragment M on Message { id seq content createdAt editedAt deletedAt }`
	eventFields   = messageFields + ` fragment E on ConversationEvent { seq at cursor
	... on HistoryRestored { firstSeq }
	... on MemberAdded { user { id } }
	... on MemberRemoved { user { id } }
	... on MessageAdded { added: message { ...M } }
	... on MessageEdited { message { ...M } }
	... on MessageDeleted { message { ...M } }
	... on ReactionAdded { message { ...M } user { id } emoji count }
	... on ReactionRemoved { message { ...M } user { id } emoji count } }`

	// lastMessage may be newer than the delivered message. Only members may see it.
	messagesQuery = `subscription ($c: ID!, $s: Int, $a: String) {
	messageAdded(conversationId: $c, afterSeq: $s, after: $a) {
		id seq cursor content createdAt conversation { lastMessage { seq } } } }`
	conversationQuery = `subscription ($c: ID!, $s: Int, $a: String) {
	conversationEvents(conversationId: $c, afterSeq: $s, after: $a) { __typename ...E } } ` +
		eventFields
	everythingQuery = `subscription ($a: String) {
	events(after: $a) { cursor conversationId event { __typename ...E } } } ` + eventFields
)

// message is a message as clients receive it. A deleted one has no content.
type message struct {
	ID        string     `json:"id"`
	Seq       int64      `json:"seq"`
	Content   string     `json:"content"`
	CreatedAt time.Time  `json:"createdAt"`
	EditedAt  *time.Time `json:"editedAt"`
	DeletedAt *time.Time `json:"deletedAt"`
}

func (m message) String() string {
	return fmt.Sprintf("seq %d, %s %s", m.Seq, m.ID,
		quoted(m.Content))
}

type user struct{ ID string }

// event is an event as clients receive it. An item of messageAdded is a MessageAdded without a
// time.
type event struct {
	Kind   string `json:"__typename"`
	Seq    int64
	At     time.Time
	Cursor string // its place
	// of a HistoryRestored: the first of the seqs before it that no event has
	FirstSeq int64
	Added    *message // of a MessageAdded
	Message  *message // of the other events that are about a message
	User     *user
	Emoji    string
	Count    int
}

func arrival(m message) event { return event{Kind: messageAdded, Seq: m.Seq, Added: &m} }

// written returns when an event was written.
func (e event) written() time.Time {
	if e.At.IsZero() && e.Added != nil {
		return e.Added.CreatedAt
	}
	return e.At
}

// covers returns the first seq that an event accounts for: its own, except for a HistoryRestored.
func (e event) covers() int64 {
	if e.Kind == historyRestored {
		return min(e.FirstSeq, e.Seq)
	}
	return e.Seq
}

// subject returns the message that an event is about: nil if there is none.
func (e event) subject() *message {
	if e.Added != nil {
		return e.Added
	}
	return e.Message
}

// person returns the id of the user that an event is about: "" if there is none.
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

// isBare reports whether an event is about a message that it does not contain.
func (e event) isBare() bool {
	switch e.Kind {
	case messageAdded, messageEdited, messageDeleted, reactionAdded, reactionRemoved:
		return e.subject() == nil
	}
	return false
}

// contradiction returns what was expected instead if an event and its message contradict each
// other, and "" otherwise. The message may be newer than the event, never older.
func (e event) contradiction() string {
	m := e.subject()
	switch {
	case m == nil && e.Kind == messageAdded:
		return "a message"
	case m == nil:
		return ""
	case e.Kind == messageAdded && m.Seq != e.Seq:
		return fmt.Sprintf("the message of seq %d", e.Seq)
	case e.Kind == messageEdited && m.DeletedAt == nil &&
		(m.EditedAt == nil || m.EditedAt.Before(e.At)):
		return fmt.Sprintf("a message that was edited at %v, or later", e.At)
	case e.Kind == messageDeleted &&
		(m.Content != "" || m.DeletedAt == nil || !m.DeletedAt.Equal(e.At)):
		return fmt.Sprintf("a message that was deleted at %v", e.At)
	}
	return ""
}

// item is what a stream delivers: an event, or a change of the stream itself.
type item struct {
	event
	conversation string // id; of a stream of everything only
	cursor       string // to resume after this item; of a stream of everything only
	// the seq of the conversation's last message; 0 if the query does not ask for it
	newest int64
}

// readItem reads the payload of a next message: an item, or the errors that the server sent
// instead. It abbreviates contents.
func readItem(m api.Message) (it *item, errs []api.Error, err error) {
	var payload struct {
		Data *struct {
			MessageAdded *struct {
				message
				Cursor       string
				Conversation struct{ LastMessage struct{ Seq int64 } }
			}
			ConversationEvents *event
			Events             *struct {
				Cursor, ConversationID string
				Event                  event
			}
		}
		Errors []api.Error
	}
	if err := json.Unmarshal(m.Payload, &payload); err != nil {
		return nil, nil, err
	}
	if payload.Data == nil || len(payload.Errors) > 0 {
		return nil, payload.Errors, nil
	}
	switch d := payload.Data; {
	case d.MessageAdded != nil:
		newest := d.MessageAdded.Conversation.LastMessage.Seq
		it = &item{event: arrival(d.MessageAdded.message), newest: newest}
		it.Cursor = d.MessageAdded.Cursor
	case d.ConversationEvents != nil:
		it = &item{event: *d.ConversationEvents}
	case d.Events != nil:
		it = &item{
			event: d.Events.Event, conversation: d.Events.ConversationID, cursor: d.Events.Cursor,
		}
	default:
		return nil, nil, nil
	}
	if about := it.subject(); about != nil {
		about.Content = brief(about.Content)
	}
	return it, nil, nil
}
