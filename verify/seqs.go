package verify

// span is a range of seqs, both ends included.
type span struct{ from, to int64 }

func (s span) has(seq int64) bool { return s.from <= seq && seq <= s.to }

// bitset is a set of seqs: small numbers without large gaps.
type bitset []uint64

func (b *bitset) add(seq int64) {
	for int64(len(*b)) <= seq/64 {
		*b = append(*b, 0)
	}
	(*b)[seq/64] |= 1 << (seq % 64)
}

func (b bitset) has(seq int64) bool {
	return seq/64 < int64(len(b)) && b[seq/64]&(1<<(seq%64)) != 0
}
