package feed

import (
	"bytes"
	"context"

	"parley/errs"
	"parley/membership"
	"parley/model"
	"parley/store"
)

// Place is the place of an event in the log of its conversation; Seq 0 is before the first event.
type Place struct {
	Seq int64
	// Mark is the event's; 0 if it is not known. Then any event that stands there is accepted.
	Mark model.Mark
}

func placeOf(e *model.Event) Place { return Place{e.Seq, e.Mark()} }

const (
	placeList = 'M' // the letter that these cursors begin with
	placeTag  = 4   // bytes of the conversation's id in a cursor
)

// PlaceCursor returns the cursor of a place in a conversation. Nothing about it is authenticated:
// it only says where to begin in a conversation whose member the client has to be, and a forged
// mark matches no event.
func PlaceCursor(id model.ConversationID, p Place) string {
	return store.NewCursor(placeList).Int(p.Seq).Int(int64(p.Mark)).Bytes(tagOf(id)).String()
}

// MessageCursor returns the cursor of a message: that of its event, which is also the message's
// cursor in the list of its conversation.
func MessageCursor(m *model.Message) string {
	return PlaceCursor(m.ConversationID, Place{m.Seq, m.ID.Mark()})
}

// tagOf returns the end of an id, which is random.
func tagOf(id model.ConversationID) []byte { return id[len(id)-placeTag:] }

// ReadPlaceCursor decodes a cursor of a conversation. It returns BAD_USER_INPUT for anything else.
func ReadPlaceCursor(id model.ConversationID, cursor string) (Place, error) {
	p, tag, err := readPlaceCursor(cursor)
	switch {
	case err != nil:
		return p, errs.New(errs.BadUserInput,
			"after: That is not the cursor of a message or an event. Send one as it came, or none "+
				"to start from now.")
	case !bytes.Equal(tag, tagOf(id)):
		return p, errs.New(errs.BadUserInput, "after: That is a cursor of another conversation.")
	}
	return p, nil
}

// ReadListCursor decodes a cursor for a list of messages. The list may be that of another
// conversation, because one document asks for the lists of many.
func ReadListCursor(cursor string) (Place, error) {
	p, _, err := readPlaceCursor(cursor)
	return p, err
}

func readPlaceCursor(cursor string) (p Place, tag []byte, err error) {
	r := store.ReadCursor(placeList, cursor)
	p = Place{r.ReadInt(), model.Mark(r.ReadInt())}
	tag = r.ReadBytes(placeTag)
	if err := r.Done(); err != nil || p.Seq >= 0 {
		return p, tag, err
	}
	return p, tag, errs.New(errs.BadUserInput, "That is not a cursor of this list.")
}

// historyChanged returns HISTORY_CHANGED, with the cursor of the newest event.
func (s *Service) historyChanged(ctx context.Context, id model.ConversationID) error {
	newest, exists, err := newestPlace(ctx, s.db, id)
	switch {
	case err != nil:
		return err
	case !exists:
		return membership.ErrNoConversation
	}
	changed := errs.New(errs.HistoryChanged, "The server's database was restored, and some of the "+
		"events that you have are not in it. Fetch again what you show, and continue after the "+
		"cursor in extensions.")
	changed.Cursor = PlaceCursor(id, newest)
	return changed
}

// AfterSeq returns the place of the event with a seq, whichever event that is; nil if seq is nil.
func AfterSeq(seq *int64) *Place {
	if seq == nil {
		return nil
	}
	return &Place{Seq: *seq}
}
