package chat

import (
	"context"

	"parley/model"
)

// What tests of this package see of its inside.

type Outgoing = outgoing

const (
	MaxContent        = maxContent
	MaxSnippet        = maxSnippet
	MembershipsAtOnce = membershipsAtOnce
	ReactionsAtOnce   = reactionsAtOnce
)

var (
	ErrKeyUsed        = errKeyUsed
	DistinctNames     = distinctNames
	MentionCandidates = mentionCandidates
	InWords           = inWords
	IndexMessage      = indexMessage
)

func (s *Service) DeleteEnded(ctx context.Context) error { return s.deleteEnded(ctx) }

func (s *Service) NewOutgoing(
	ctx context.Context, actor model.Actor, in SendMessage,
) (*outgoing, error) {
	return s.outgoing(ctx, actor, in)
}

func (s *Service) StoreMessages(
	ctx context.Context, all []*outgoing, wait bool,
) ([]*outgoing, error) {
	return s.storeMessages(ctx, all, wait)
}

func (o *outgoing) Stored() *model.Message { return o.message }
func (o *outgoing) Refused() error         { return o.refused }
func (o *outgoing) Names() [][]string      { return o.names }
