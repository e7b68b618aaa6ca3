package chat

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/model"
)

func messageHint(id model.ConversationID, seq int64, content string) hint {
	at := time.Date(2026, 11, 22, 10, 15, 30, 123_456_000, time.UTC)
	m := &model.Message{ID: model.NewMessageID(), ConversationID: id, Seq: seq, AuthorID: new(model.NewUserID()), Content: content, CreatedAt: at}
	return hint{seq: seq, events: []*model.Event{{
		ConversationID: id, Seq: seq, Kind: model.MessageAdded, ActorID: m.AuthorID, MessageID: &m.ID, Data: []byte("{}"), At: at, Message: m,
	}}}
}

func TestHintsComeAsTheyWere(t *testing.T) {
	t.Parallel()
	id := model.NewConversationID()
	removed := &model.Event{ConversationID: id, Seq: 9, Kind: model.MemberRemoved, Data: []byte(`{"userId":"` + model.NewUserID().String() + `"}`)}
	full := messageHint(id, 7, "full")
	fill(reflect.ValueOf(full.events[0]).Elem()) // whatever a column of today or tomorrow is
	fill(reflect.ValueOf(full.events[0].Message).Elem())
	full.events[0].ConversationID, full.events[0].Seq, full.events[0].Kind, full.events[0].Data = id, 7, model.MessageAdded, []byte(`{"a": 1}`)
	full.events[0].Message.ConversationID, full.events[0].Message.Seq, full.events[0].MessageID = id, 7, &full.events[0].Message.ID
	two := messageHint(id, 3, "the first of two")
	two.seq, two.events = 4, append(two.events, messageHint(id, 4, "the second").events...)
	for name, h := range map[string]hint{
		"two of one commit": two,
		"a message":         messageHint(id, 42, "héllo \x00 </script> \u2028 🎉"), "everything in it": full, "a removal": {seq: 9, events: []*model.Event{removed}}, "the seq alone": {seq: 1},
	} {
		data, err := encodeHint(h)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeHint(topicOf(id), data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantEqual(t, name, h, got, cmp.AllowUnexported(hint{}), sameData())
	}
}

// fill gives every field of a struct a value that is not its zero.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case v.Type().Field(i).Anonymous || !f.IsZero():
		case f.Type() == reflect.TypeFor[time.Time]():
			f.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)))
		case f.Kind() == reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
			if f.Elem().Kind() == reflect.Struct && f.Type().Elem() == reflect.TypeFor[time.Time]() {
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
	}{{1000, true}, {maxHint - 1000, true}, {maxHint, false}, {10 * maxHint, false}} {
		data, err := encodeHint(messageHint(id, 5, strings.Repeat("x", c.length)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeHint(topicOf(id), data)
		if err != nil || got.seq != 5 || (got.events != nil) != c.whole || len(data) > maxHint {
			t.Errorf("%d: %d bytes, %+v, %v", c.length, len(data), got, err)
		}
	}
}

// brokenHints are what the topic of a conversation should never carry.
func brokenHints(id model.ConversationID) map[string]string {
	of := func(change func(*hint)) string {
		h := messageHint(id, 2, "not stored")
		change(&h)
		data, err := json.Marshal(wireHint{hintVersion, h.seq, h.events})
		if err != nil {
			panic(err)
		}
		return string(data)
	}
	return map[string]string{
		"nothing":                      "",
		"no JSON":                      "\x00\xff",
		"another shape":                `[1]`,
		"no seq":                       `{"v":2}`,
		"a seq of 0":                   `{"v":2,"seq":0}`,
		"a negative seq":               `{"v":2,"seq":-5}`,
		"a fraction":                   `{"v":2,"seq":2.5}`,
		"too large a seq":              `{"v":2,"seq":9223372036854775808}`,
		"too much":                     `{"v":2,"seq":2,"x":"` + strings.Repeat("x", maxHint) + `"}`,
		"an event of another shape":    `{"v":2,"seq":2,"events":"x"}`,
		"a null in place of an event":  `{"v":2,"seq":2,"events":[null]}`,
		"more events than seqs":        `{"v":2,"seq":1,"events":[{},{}]}`,
		"a gap":                        of(func(h *hint) { h.seq, h.events = 9, append(h.events, messageHint(id, 9, "x").events...) }),
		"an empty event":               `{"v":2,"seq":2,"events":[{}]}`,
		"another conversation":         of(func(h *hint) { h.events[0].ConversationID = model.NewConversationID() }),
		"another seq":                  of(func(h *hint) { h.events[0].Seq = 3 }),
		"no kind":                      of(func(h *hint) { h.events[0].Kind = "" }),
		"no message id":                of(func(h *hint) { h.events[0].MessageID = nil }),
		"neither id nor message":       of(func(h *hint) { h.events[0].MessageID, h.events[0].Message = nil, nil }),
		"another message":              of(func(h *hint) { h.events[0].MessageID = new(model.NewMessageID()) }),
		"a message of another place":   of(func(h *hint) { h.events[0].Message.Seq = 1 }),
		"one of another conversation":  of(func(h *hint) { h.events[0].Message.ConversationID = model.NewConversationID() }),
		"a removal of nobody readable": of(func(h *hint) { h.events[0].Kind, h.events[0].Data = model.MemberRemoved, []byte(`{"userId": 5}`) }),
	}
}

func TestBrokenHintsAreRefused(t *testing.T) {
	t.Parallel()
	id := model.NewConversationID()
	for name, data := range brokenHints(id) {
		if h, err := decodeHint(topicOf(id), []byte(data)); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	data, err := encodeHint(messageHint(id, 2, "x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"", "conversation_", "conversation_nonsense", "something_else", topicOf(model.NewConversationID())} {
		if h, err := decodeHint(topic, data); err == nil {
			t.Errorf("on %s: %+v", topic, h)
		}
	}
}

func TestHintsThatAreTakenForTheirSeqAlone(t *testing.T) {
	t.Parallel()
	id := model.NewConversationID()
	for name, data := range map[string]string{
		"another version":        `{"v":3,"seq":5,"events":{"what":"will be"}}`,
		"no version":             `{"seq":5,"events":7}`,
		"null":                   `{"v":2,"seq":5,"events":null}`,
		"more than is known":     `{"v":2,"seq":5,"more":true}`,
		"a message that is gone": `{"v":2,"seq":5,"events":[{"ConversationID":"` + id.String() + `","Seq":5,"Kind":"later","MessageID":"` + model.NewMessageID().String() + `"}]}`,
	} {
		h, err := decodeHint(topicOf(id), []byte(data))
		if err != nil || h.seq != 5 || h.events != nil {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func FuzzDecodeHint(f *testing.F) {
	id := model.NewConversationID()
	for _, data := range brokenHints(id) {
		f.Add([]byte(data))
	}
	for _, h := range []hint{{seq: 1}, messageHint(id, 42, "hello")} {
		data, err := encodeHint(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := decodeHint(topicOf(id), data)
		if err != nil {
			return
		}
		if h.seq < 1 {
			t.Fatalf("seq %d", h.seq)
		}
		for i, e := range h.events {
			if e.ConversationID != id || e.Seq != h.seq-int64(len(h.events)-1-i) || (e.Kind == model.MessageAdded) && e.Message == nil {
				t.Fatalf("event %+v", e)
			}
		}
		// What was understood once is understood again, and the same.
		again, err := encodeHint(h)
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		got, err := decodeHint(topicOf(id), again)
		if err != nil || got.seq != h.seq {
			t.Fatalf("%s: %+v, %v", again, got, err)
		}
	})
}
