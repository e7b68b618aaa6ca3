package document

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

const (
	maxIntDigits = 10 // of an Int, which has 32 bits
	maxIDDigits  = 40 // of an integer that is given for an ID
)

// integer returns the decimal text of a number. ok is false if it has a fractional part or more
// than limit digits. 10, 1e1 and 10.0 are the same number (section 3.5.1).
func integer(v any, limit int) (digits string, ok bool) {
	switch v := v.(type) {
	case json.Number:
		return integerText(string(v), limit)
	case int64:
		return strconv.FormatInt(v, 10), true
	case int:
		return strconv.Itoa(v), true
	case float64:
		return integerText(strconv.FormatFloat(v, 'f', -1, 64), limit)
	}
	return "", false
}

// integerText is integer for a number in JSON. Its time depends on the length of the text, not on
// the exponent.
func integerText(text string, limit int) (digits string, ok bool) {
	mantissa, negative := strings.CutPrefix(text, "-")
	zeros := 0 // to append to the digits
	if e := strings.IndexAny(mantissa, "eE"); e >= 0 {
		exponent, err := strconv.ParseInt(mantissa[e+1:], 10, 32)
		if err != nil && exponent == 0 {
			return "", false // not a number
		}
		// beyond 32 bits, ParseInt returns the largest
		mantissa, zeros = mantissa[:e], int(exponent)
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	significant := strings.TrimRight(digits, "0")
	zeros += len(digits) - len(significant) - len(fraction)
	switch {
	case significant == "":
		return "0", true
	case zeros < 0 || len(significant)+zeros > limit ||
		strings.Trim(significant, "0123456789") != "":
		return "", false
	}
	digits = significant + strings.Repeat("0", zeros)
	if negative {
		digits = "-" + digits
	}
	return digits, true
}

// finite returns a number as a Float (section 3.5.2). ok is false if it is not finite.
func finite(v any) (f float64, ok bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		return f, err == nil
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case float64:
		return v, !math.IsInf(v, 0) && !math.IsNaN(v)
	}
	return 0, false
}
