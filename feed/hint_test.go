package feed_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/chat/chattest"
	"parley/feed"
	"parley/model"
)

func messageHint(id model.ConversationID, seq int64, content string) feed.Hint {
	at := time.Date(2026, 11, 22, 10, 15, 30, 123_456_000, time.UTC)
	m := &model.Message{
		ID: model.NewMessageID(), ConversationID: id, Seq: seq,
		AuthorID: new(model.NewUserID()), Content: content, CreatedAt: at,
	}
	return feed.Hint{Seq: seq, Events: []*model.Event{{
		ConversationID: id, Seq: seq, Kind: model.MessageAdded, ActorID: m.AuthorID,
		MessageID: &m.ID, Data: []byte("{}"), At: at, Message: m,
	}}}
}

func TestHintsAreDecodedAsEncoded(t *testing.T) {
	t.Parallel()
	id := model.NewConversationID()
	removed := &model.Event{
		ConversationID: id, Seq: 9, Kind: model.MemberRemoved,
		Data: []byte(`{"userId":"` + model.NewUserID().String() + `"}`),
	}
	full := messageHint(id, 7, "full")
	fill(reflect.ValueOf(full.Events[0]).Elem()) // whatever a column of today or tomorrow is
	fill(reflect.ValueOf(full.Events[0].Message).Elem())
	full.Events[0].ConversationID, full.Events[0].Seq, full.Events[0].Kind, full.Events[0].Data =
		id, 7, model.MessageAdded, []byte(`{"a": 1}`)
	full.Events[0].Message.ConversationID, full.Events[0].Message.Seq, full.Events[0].MessageID =
		id, 7, &full.Events[0].Message.ID
	two := messageHint(id, 3, "the first of two")
	two.Seq, two.Events = 4, append(two.Events, messageHint(id, 4, "the second").Events...)
	for name, h := range map[string]feed.Hint{
		"two of one commit": two,
		"a message":         messageHint(id, 42, "héllo \x00 </script> \u2028 🎉"),
		"everything in it":  full, "a removal": {Seq: 9, Events: []*model.Event{removed}},
		"the seq alone": {Seq: 1},
	} {
		data, err := feed.EncodeHint(h)
		if err != nil {
			t.Fatal(err)
		}
		got, err := feed.DecodeHint(feed.Topic(id), data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		chattest.WantEqual(t, name, h, got, cmp.AllowUnexported(feed.Hint{}), sameData())
	}
}

// fill sets every field of a struct to a value that is not zero.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case v.Type().Field(i).Anonymous || !f.IsZero():
		case f.Type() == reflect.TypeFor[time.Time]():
			f.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)))
		case f.Kind() == reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
			if f.Elem().Kind() == reflect.Struct && f.Type().
				Elem() == reflect.TypeFor[time.Time]() {
				f.Elem().Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)))
			}
		case f.Kind() == reflect.String:
			f.SetString("x")
		case f.CanInt():
			f.SetInt(1)
		case f.Kind() == reflect.Bool:
			f.SetBool(true)
		case f.Type() == reflect.TypeFor[[]byte]():
			f.SetBytes([]byte("x"))
		default:
		}
	}
}

func TestALargeHintIsTheSeqAlone(t *testing.T) {
	t.Parallel()
	id := model.NewConversationID()
	for _, c := range []struct {
		length int
		whole  bool
	}{
		{1000, true},
		{feed.MaxHint - 1000, true},
		{feed.MaxHint, false},
		{10 * feed.MaxHint, false},
	} {
		data, err := feed.EncodeHint(messageHint(id, 5, strings.Repeat("x", c.length)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := feed.DecodeHint(feed.Topic(id), data)
		if err != nil || got.Seq != 5 || (got.Events != nil) != c.whole ||
			len(data) > feed.MaxHint {
			t.Errorf("%d: %d bytes, %+v, %v", c.length, len(data), got, err)
		}
	}
}

// brokenHints are messages that must be refused on the topic of a conversation.
func brokenHints(id model.ConversationID) map[string]string {
	of := func(change func(*feed.Hint)) string {
		h := messageHint(id, 2, "not stored")
		change(&h)
		data, err := json.Marshal(feed.WireHint{feed.HintVersion, h.Seq, h.Events})
		if err != nil {
			panic(err)
		}
		return string(data)
	}
	return map[string]string{
		"nothing":         "",
		"no JSON":         "\x00\xff",
		"another shape":   `[1]`,
		"no seq":          `{"v":2}`,
		"a seq of 0":      `{"v":2,"seq":0}`,
		"a negative seq":  `{"v":2,"seq":-5}`,
		"a fraction":      `{"v":2,"seq":2.5}`,
		"too large a seq": `{"v":2,"seq":9223372036854775808}`,
		"too much": `{"v":2,"seq":2,"x":"` + strings.Repeat("x", feed.MaxHint) +
			`"}`,
		"an event of another shape":   `{"v":2,"seq":2,"events":"x"}`,
		"a null in place of an event": `{"v":2,"seq":2,"events":[null]}`,
		"more events than seqs":       `{"v":2,"seq":1,"events":[{},{}]}`,
		"a gap": of(func(h *feed.Hint) {
			h.Seq, h.Events = 9,
				append(h.Events, messageHint(id, 9, "x").Events...)
		}),
		"an empty event": `{"v":2,"seq":2,"events":[{}]}`,
		"another conversation": of(
			func(h *feed.Hint) { h.Events[0].ConversationID = model.NewConversationID() }),
		"another seq":   of(func(h *feed.Hint) { h.Events[0].Seq = 3 }),
		"no kind":       of(func(h *feed.Hint) { h.Events[0].Kind = "" }),
		"no message id": of(func(h *feed.Hint) { h.Events[0].MessageID = nil }),
		"neither id nor message": of(func(h *feed.Hint) {
			h.Events[0].MessageID,
				h.Events[0].Message = nil, nil
		}),
		"another message": of(
			func(h *feed.Hint) { h.Events[0].MessageID = new(model.NewMessageID()) }),
		"a message of another place": of(func(h *feed.Hint) { h.Events[0].Message.Seq = 1 }),
		"one of another conversation": of(
			func(h *feed.Hint) { h.Events[0].Message.ConversationID = model.NewConversationID() }),
		"a removal without a readable user": of(func(h *feed.Hint) {
			h.Events[0].Kind,
				h.Events[0].Data = model.MemberRemoved, []byte(`{"userId": 5}`)
		}),
	}
}

func TestBrokenHintsAreRefused(t *testing.T) {
	t.Parallel()
	id := model.NewConversationID()
	for name, data := range brokenHints(id) {
		if h, err := feed.DecodeHint(feed.Topic(id), []byte(data)); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	data, err := feed.EncodeHint(messageHint(id, 2, "x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{
		"", "conversation_", "conversation_nonsense", "something_else",
		feed.Topic(model.NewConversationID()),
	} {
		if h, err := feed.DecodeHint(topic, data); err == nil {
			t.Errorf("on %s: %+v", topic, h)
		}
	}
}

func TestHintsOfWhichOnlyTheSeqIsUsed(t *testing.T) {
	t.Parallel()
	id := model.NewConversationID()
	for name, data := range map[string]string{
		"another version":    `{"v":3,"seq":5,"events":{"what":"will be"}}`,
		"no version":         `{"seq":5,"events":7}`,
		"null":               `{"v":2,"seq":5,"events":null}`,
		"more than is known": `{"v":2,"seq":5,"more":true}`,
		"a message that is gone": `{"v":2,"seq":5,"events":[{"ConversationID":"` + id.String() +
			`","Seq":5,"Kind":"later","MessageID":"` + model.NewMessageID().String() + `"}]}`,
	} {
		h, err := feed.DecodeHint(feed.Topic(id), []byte(data))
		if err != nil || h.Seq != 5 || h.Events != nil {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func FuzzDecodeHint(f *testing.F) {
	id := model.NewConversationID()
	for _, data := range brokenHints(id) {
		f.Add([]byte(data))
	}
	for _, h := range []feed.Hint{{Seq: 1}, messageHint(id, 42, "hello")} {
		data, err := feed.EncodeHint(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := feed.DecodeHint(feed.Topic(id), data)
		if err != nil {
			return
		}
		if h.Seq < 1 {
			t.Fatalf("seq %d", h.Seq)
		}
		for i, e := range h.Events {
			if e.ConversationID != id || e.Seq != h.Seq-int64(len(h.Events)-1-i) ||
				(e.Kind == model.MessageAdded) && e.Message == nil {
				t.Fatalf("event %+v", e)
			}
		}
		// A decoded hint, encoded again, is decoded to the same.
		again, err := feed.EncodeHint(h)
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		got, err := feed.DecodeHint(feed.Topic(id), again)
		if err != nil || got.Seq != h.Seq {
			t.Fatalf("%s: %+v, %v", again, got, err)
		}
	})
}
