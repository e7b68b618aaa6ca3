package model_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"parley/errs"
	"parley/model"
)

// The pairs are the valid examples of the TypeID spec.
func TestIDsFollowTheTypeIDSpec(t *testing.T) {
	t.Parallel()
	for suffix, id := range map[string]string{
		"00000000000000000000000000": "00000000-0000-0000-0000-000000000000",
		"00000000000000000000000001": "00000000-0000-0000-0000-000000000001",
		"0000000000000000000000000a": "00000000-0000-0000-0000-00000000000a",
		"0000000000000000000000000g": "00000000-0000-0000-0000-000000000010",
		"7zzzzzzzzzzzzzzzzzzzzzzzzz": "ffffffff-ffff-ffff-ffff-ffffffffffff",
		"0123456789abcdefghjkmnpqrs": "0110c853-1d09-52d8-d73e-1194e95b5f19",
		"01h455vb4pex5vsknk084sn02q": "01890a5d-ac96-774b-bcce-b302099a8057",
	} {
		want := model.UserID(uuid.MustParse(id))
		if got := want.String(); got != "user_"+suffix {
			t.Errorf("%s is %s, want user_%s", id, got, suffix)
		}
		if got, err := model.ParseID[model.UserID]("user_" + suffix); err != nil || got != want {
			t.Errorf("user_%s is %v (%v), want %v", suffix, got, err, want)
		}
	}
}

func TestErrorsOfParseIDNameTheExpectedKind(t *testing.T) {
	t.Parallel()
	conversation := model.NewConversationID().String()
	id := model.MemberID{Conversation: model.NewConversationID(), User: model.NewUserID()}
	member := id.String()
	for in, want := range map[string]string{
		"":                                `Expected a user id (user_…), got "".`,
		"42":                              `Expected a user id (user_…), got "42".`,
		"usr_01h455vb4pex5vsknk084sn02q":  `Expected a user id (user_…), got "usr_01h455vb4pex5vsknk084sn02q".`,
		conversation:                      "Expected a user id (user_…), got a conversation id.",
		member:                            "Expected a user id (user_…), got a member id.",
		"user_01h455vb4pex5vsknk084sn02":  `Expected a user id (user_…), got "user_01h455vb4pex5vsknk084sn02".`,
		"user_81h455vb4pex5vsknk084sn02q": `Expected a user id (user_…), got "user_81h455vb4pex5vsknk084sn02q".`,
		"user_01H455VB4PEX5VSKNK084SN02Q": `Expected a user id (user_…), got "user_01H455VB4PEX5VSKNK084SN02Q".`,
	} {
		_, err := model.ParseID[model.UserID](in)
		if !errs.Is(err, errs.BadUserInput) {
			t.Errorf("%q: got %v, want BAD_USER_INPUT", in, err)
			continue
		}
		if got := strings.TrimPrefix(err.Error(), "BAD_USER_INPUT: "); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestIDsSurviveJSON(t *testing.T) {
	t.Parallel()
	want := model.ConversationCreatedData{
		Kind: model.Group, Title: "t",
		Members: []model.MemberData{{UserID: model.NewUserID(), Role: model.Owner}},
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got model.ConversationCreatedData
	if err := json.Unmarshal(b, &got); err != nil || got.Members[0] != want.Members[0] {
		t.Fatalf("%s: got %+v (%v)", b, got, err)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(model.NewUserID().String())
	f.Add(model.MemberID{Conversation: model.NewConversationID(), User: model.NewUserID()}.String())
	f.Add("msg_7zzzzzzzzzzzzzzzzzzzzzzzzz")
	f.Add("user__")
	f.Fuzz(func(t *testing.T, s string) {
		user, errUser := model.ParseID[model.UserID](s)
		member, errMember := model.ParseID[model.MemberID](s)
		message, errMessage := model.ParseID[model.MessageID](s)
		accepted := 0
		for _, c := range []struct {
			err  error
			back string
		}{{errUser, user.String()}, {errMember, member.String()}, {errMessage, message.String()}} {
			if c.err != nil {
				if !errs.Is(c.err, errs.BadUserInput) {
					t.Errorf("%q: %v is not BAD_USER_INPUT", s, c.err)
				}
				continue
			}
			accepted++
			if c.back != s {
				t.Errorf("%q was read as %q", s, c.back)
			}
		}
		if accepted > 1 {
			t.Errorf("%q is an id of two kinds", s)
		}
	})
}
