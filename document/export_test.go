package document

// Coerce exports coerce.
var Coerce = (*Reader).coerce
