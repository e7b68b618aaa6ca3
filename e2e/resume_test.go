package e2e

import (
	"testing"
)

// TestExpiry checks that a client outlives its access token: the server closes its connection, and
// the client reconnects with a fresh token and receives what it has missed. A token may expire at
// any time.
func TestExpiry(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL), "PARLEY_ACCESS_TTL=2s")
		ada, grace := srv.register("ada"), srv.register("grace")
		adaOnStream := ada.loginAgain()
		grace.refresh() // hashing passwords may have taken as long as a token lives
		conversation := grace.converse(ada)
		send := func(content string) message {
			t.Helper()
			grace.refresh()
			return grace.send(conversation, content)
		}

		f := srv.follow(webSocket, followOptions{
			ConversationID: conversation, AfterSeq: new(int64(0)),
			RefreshToken: ada.tokens.RefreshToken, Reconnect: true,
		})
		for range 2 {
			send("to a client that may be connected")
			for !f.expired() {
			}
			for range 5 {
				send("to a client that is away")
			}
			f.reconnect(srv.api)
		}
		last := send("to a client that reconnects")
		for f.last() < last.Seq {
			if f.expired() {
				f.reconnect(srv.api)
			}
		}
		grace.refresh()
		listed := grace.listed(conversation)
		wantMessages(t, f.name, listed, f.messages)

		// A stream cannot get another token, so it ends with an error.
		stream := srv.follow(serverSent, followOptions{
			ConversationID: conversation, AfterSeq: new(int64(0)),
			RefreshToken: adaOnStream.tokens.RefreshToken,
		})
		stream.want("refreshed")
		stream.want("connected")
		e := stream.want("next")
		for e.Result.Errors == nil {
			e = stream.want("next")
		}
		if got := e.Result.code(); got != "UNAUTHENTICATED" {
			t.Errorf("the stream has ended with %+v, want UNAUTHENTICATED", e.Result.Errors)
		}
		stream.want("complete")
		wantMessages(t, stream.name, listed[:len(stream.messages)], stream.messages)
	})
}

// TestRestart ends the server while users send, and starts it again on the same data.
func TestRestart(t *testing.T) {
	for name, end := range map[string]struct {
		server func(*server)
		code   int // that a WebSocket is closed with
	}{
		"Stop": {(*server).stop, 1012},
		"Kill": {(*server).kill, 1006}, // no close frame at all, see RFC 6455, section 7.1.5
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, databaseURL string) {
				srv := mustServe(t, on(databaseURL))
				people := srv.registerAll("ada", "grace", "linus")
				ada, grace := people[0], people[1]
				conversation := ada.converse(people[1:]...)
				all := followOptions{
					ConversationID: conversation, AfterSeq: new(int64(0)),
					Reconnect: true,
				}
				sockets := []*follower{ada.follow(webSocket, all), grace.follow(webSocket, all)}
				stream := grace.follow(serverSent, all)
				followers := append(sockets, stream)
				for _, f := range followers {
					f.want("connected")
				}

				senders := startSending(t, conversation, forever, people...)
				for _, f := range followers {
					f.until(40)
				}
				end.server(srv)
				senders.interrupted(20)
				for _, f := range sockets {
					if e := f.wantClosed(); e.Code != end.code {
						t.Errorf("closed with %d %q, want %d", e.Code, e.Reason, end.code)
					}
				}
				stream.wantClosed()

				srv.start()
				senders.resume()
				for _, f := range followers {
					f.reconnect(srv.api)
					f.want("connected")
				}
				senders.finish()
				listed := grace.listed(conversation)
				senders.wantSent(listed)
				for _, f := range followers {
					f.wantAll(listed)
				}
			})
		})
	}
}
