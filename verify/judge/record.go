package judge

// Record is one line of a history file. docs/verify.md describes the form.
type Record struct {
	Type Type  `json:"type"`
	Time int64 `json:"time"` // nanoseconds since the file was begun; never falls

	// Of the run.
	Form    int    `json:"form,omitempty"` // the number of this form of the file
	Command string `json:"command,omitempty"`

	// Of operations.
	Process  string   `json:"process,omitempty"` // does one operation at a time
	Op       int      `json:"op,omitempty"`      // the same number in all records of an operation
	Function Function `json:"f,omitempty"`
	Key      string   `json:"key,omitempty"`    // the idempotency key
	Newest   bool     `json:"newest,omitempty"` // a page of the newest messages
	After    int64    `json:"after,omitempty"`  // seq that a page or a subscription begins after
	Limit    int      `json:"limit,omitempty"`  // the most messages in a page
	Page     []Item   `json:"page,omitempty"`   // in order of seq
	Why      string   `json:"why,omitempty"`    // of info, fail and told

	// Of streams.
	Stream string `json:"stream,omitempty"`
	Source string `json:"source,omitempty"` // the subscription of the API
	Final  bool   `json:"final,omitempty"`  // reads the whole log after everything else

	// Of what is written, read or delivered.
	Conversation string   `json:"conversation,omitempty"`
	FromJoining  bool     `json:"fromJoining,omitempty"` // history begins with joining
	Kind         string   `json:"kind,omitempty"`        // of an event or item, as in the schema
	Seq          int64    `json:"seq,omitempty"`
	First        int64    `json:"first,omitempty"` // the first seq that the event covers, if not Seq
	ID           string   `json:"id,omitempty"`
	Value        string   `json:"value,omitempty"` // the content, abbreviated
	User         string   `json:"user,omitempty"`
	Fault        string   `json:"fault,omitempty"`
	From         int64    `json:"from,omitempty"`  // when the history before ended
	Since        int64    `json:"since,omitempty"` // what was acknowledged before is in the copy
	Members      []string `json:"members,omitempty"`
}

// Item is a message in a page.
type Item struct {
	Seq int64  `json:"seq"`
	ID  string `json:"id"`
}

// Type says what a record is about.
type Type string

// Types of records.
const (
	Run          Type = "run"          // the first record
	Conversation Type = "conversation" // one exists, with its first members
	Invoke       Type = "invoke"       // an operation begins
	Info         Type = "info"         // an attempt had no answer, and is repeated
	OK           Type = "ok"           // an operation was done
	Fail         Type = "fail"         // an operation was refused, and has no effect
	Subscribe    Type = "subscribe"    // a stream is requested, also after a break
	Seek         Type = "seek"         // a stream goes on from a seq that the client read elsewhere
	Deliver      Type = "deliver"      // a stream has delivered an item
	Told         Type = "told"         // a stream was told that the history has changed
	Begin        Type = "begin"        // a fault begins
	End          Type = "end"          // a fault ends
	Restored     Type = "restored"     // a fault has undone the events after a seq
)

// Function says what an operation does.
type Function string

// Functions of operations.
const (
	Send     Function = "send"
	Edit     Function = "edit"
	Delete   Function = "delete"
	React    Function = "react"
	Unreact  Function = "unreact"
	Remove   Function = "remove" // a member
	Add      Function = "add"    // a member
	ReadPage Function = "page"   // of messages
)

// form is the newest form of history files.
const form = 1
