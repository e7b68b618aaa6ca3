package seed

import (
	"strconv"
	"strings"
)

// language has the parts of sentences: a clause, which may have an opener before it and an end
// after it. Each # becomes a random number.
type language struct {
	space                  string // between sentences
	openers, clauses, ends []string
	titles                 []string
}

//nolint:gochecknoglobals // a constant table
var languages = []language{
	{
		" ",
		[]string{
			"Morning!", "Quick question:", "Good news:", "Sorry for the late answer.",
			"Thanks a lot.",
			"Hm,", "Just saw it:", "By the way,",
		},
		[]string{
			"the meeting is moved to # o'clock",
			"I have put the notes of the meeting into the folder", "ticket # is done",
			"the train is # minutes late", "can somebody look at ticket #",
			"the build is green again", "lunch at the usual place",
			"the customer from Porto called again", "I will send the draft tomorrow",
			"the invoice # is still open",
			"the printer on the second floor is out of paper", "we are out of coffee",
			"the new release goes out on Friday",
			"my flight lands at #", "the heating is broken again",
			"the photos of the trip are in the album",
			"the review took longer than I thought", "there are # seats left for the concert",
		},
		[]string{
			"Does that work for you?", "See you there.", "No hurry.", "Please tell the others.",
			"What do you think?",
			"👍", "🎉", "I am on my way.",
		},
		[]string{
			"Release #", "Lunch", "Book club", "Trip to Lisbon", "Platform team", "Neighbours",
			"Sunday football", "Support",
		},
	},
	{
		" ",
		[]string{
			"Guten Morgen!", "Kurze Frage:", "Übrigens,", "Entschuldigt die späte Antwort.",
			"Vielen Dank.",
		},
		[]string{
			"das Treffen ist auf # Uhr verschoben", "die Rechnung # ist noch offen",
			"der Zug hat # Minuten Verspätung",
			"ich schicke den Entwurf morgen", "wer hat den Schlüssel für das Lager",
			"der Kuchen steht in der Küche",
			"die Prüfung von Vorgang # dauert länger", "am Freitag ist das Büro geschlossen",
			"die Straße ist gesperrt",
		},
		[]string{"Passt das für euch?", "Bis später.", "Keine Eile.", "Sagt es bitte weiter.", "🙂"},
		[]string{"Wohnungssuche", "Chorprobe", "Straßenfest", "Projekt Übergabe"},
	},
	{
		" ",
		[]string{
			"¡Buenos días!", "Una pregunta:", "Por cierto,", "Perdón por la demora.",
			"¡Gracias!",
		},
		[]string{
			"la reunión pasa a las #", "la factura # sigue pendiente",
			"el tren llega con # minutos de retraso",
			"mañana envío el borrador", "¿alguien tiene las llaves del almacén?",
			"el niño ya está en el colegio",
			"la presentación quedó muy bien", "nos vemos en la plaza",
			"el pedido # salió esta tarde",
		},
		[]string{
			"¿Os va bien?", "Nos vemos allí.", "Sin prisa.", "Avisad a los demás, por favor.",
			"😀",
		},
		[]string{"Viaje a Sevilla", "Equipo de diseño", "Familia", "Cumpleaños de Lucía"},
	},
	{
		" ",
		[]string{
			"Bonjour à tous !", "Petite question :", "Au fait,", "Désolée pour le retard.",
			"Merci beaucoup.",
		},
		[]string{
			"la réunion est déplacée à # heures", "la facture # n'est pas réglée",
			"le train a # minutes de retard",
			"j'envoie le brouillon demain", "qui a pris la clé du dépôt",
			"le gâteau est dans la cuisine",
			"le dossier # avance bien", "le bureau ferme plus tôt vendredi",
			"les photos de Noël sont arrivées",
		},
		[]string{
			"Ça vous va ?", "À tout à l'heure.", "Rien ne presse.",
			"Prévenez les autres, s'il vous plaît.", "🥐",
		},
		[]string{"Déménagement", "Équipe terrain", "Vacances d'été", "Café du lundi"},
	},
	{
		" ",
		[]string{
			"Доброе утро!", "Короткий вопрос:", "Кстати,", "Извините за поздний ответ.",
			"Спасибо большое.",
		},
		[]string{
			"встреча переносится на # часов", "счёт # ещё не оплачен",
			"поезд опаздывает на # минут",
			"завтра пришлю черновик", "у кого ключи от склада", "торт стоит на кухне",
			"по задаче # всё готово", "в пятницу офис закрыт", "фотографии с поездки уже в альбоме",
		},
		[]string{
			"Всем удобно?", "До встречи.", "Не спешите.", "Передайте остальным, пожалуйста.",
			"🙂",
		},
		[]string{"Дача", "Команда поддержки", "Поход в горы", "Книжный клуб"},
	},
	{
		" ",
		[]string{"Καλημέρα!", "Μια ερώτηση:", "Επίσης,", "Συγγνώμη για την καθυστέρηση."},
		[]string{
			"η συνάντηση μεταφέρθηκε στις #", "το τιμολόγιο # εκκρεμεί",
			"το τρένο έχει # λεπτά καθυστέρηση",
			"θα στείλω το προσχέδιο αύριο", "ποιος έχει τα κλειδιά της αποθήκης",
			"την Παρασκευή το γραφείο είναι κλειστό",
		},
		[]string{"Σας βολεύει;", "Τα λέμε εκεί.", "Δεν βιάζομαι.", "Πείτε το και στους άλλους."},
		[]string{"Ταξίδι στη Χίο", "Ομάδα σχεδίασης", "Οικογένεια"},
	},
	{
		" ",
		[]string{"صباح الخير!", "سؤال سريع:", "بالمناسبة،", "آسف على التأخير."},
		[]string{
			"تأجل الاجتماع إلى الساعة #", "الفاتورة # لم تدفع بعد", "القطار متأخر # دقيقة",
			"سأرسل المسودة غدا", "من معه مفتاح المخزن", "المكتب مغلق يوم الجمعة", "وصلت صور الرحلة",
		},
		[]string{"هل يناسبكم ذلك؟", "أراكم هناك.", "لا داعي للعجلة.", "أخبروا الآخرين من فضلكم."},
		[]string{"رحلة إلى تونس", "فريق الدعم", "العائلة"},
	},
	{
		" ",
		[]string{"सुप्रभात!", "एक सवाल:", "वैसे,", "देर से जवाब के लिए माफ़ी।"},
		[]string{
			"बैठक अब # बजे होगी", "बिल # अभी बाकी है", "ट्रेन # मिनट देर से है", "मसौदा कल भेजूँगा",
			"गोदाम की चाबी किसके पास है", "शुक्रवार को दफ़्तर बंद है",
		},
		[]string{
			"क्या यह ठीक है?", "वहीं मिलते हैं।", "कोई जल्दी नहीं।",
			"बाकी लोगों को भी बता दीजिए।",
		},
		[]string{"परिवार", "सहायता टीम", "गोवा की यात्रा"},
	},
	{
		"",
		[]string{"おはようございます。", "質問です。", "ところで、", "返事が遅れてすみません。"},
		[]string{
			"会議は#時に変更になりました。", "請求書#はまだ未払いです。", "電車が#分遅れています。", "下書きは明日送ります。",
			"倉庫の鍵は誰が持っていますか。", "金曜日は事務所が休みです。", "旅行の写真をアルバムに入れました。",
		},
		[]string{"大丈夫ですか。", "では現地で。", "急ぎません。", "みなさんにも伝えてください。", "🍣"},
		[]string{"京都旅行", "開発チーム", "読書会"},
	},
	{
		"",
		[]string{"早上好！", "请问一下，", "对了，", "抱歉回复晚了。"},
		[]string{
			"会议改到#点。", "发票#还没有付款。", "火车晚点#分钟。", "我明天把草稿发过来。", "仓库的钥匙在谁那里？",
			"星期五办公室不开门。", "旅行的照片都在相册里。",
		},
		[]string{"大家方便吗？", "到时候见。", "不着急。", "请转告其他人。", "🍜"},
		[]string{"周末爬山", "产品团队", "读书会"},
	},
	{
		" ",
		[]string{"좋은 아침이에요!", "질문이 있어요.", "그런데", "답이 늦어서 미안해요."},
		[]string{
			"회의가 #시로 바뀌었어요", "청구서 #번은 아직 미납이에요", "기차가 #분 늦어요", "초안은 내일 보낼게요",
			"창고 열쇠는 누가 가지고 있나요", "금요일에는 사무실을 닫아요",
		},
		[]string{"괜찮으세요?", "거기서 봐요.", "천천히 하세요.", "다른 분들께도 전해 주세요."},
		[]string{"제주도 여행", "지원팀", "독서 모임"},
	},
}

// reactions are the emoji of reactions, the most frequent first.
//
//nolint:gochecknoglobals // a constant table
var reactions = []string{"👍", "❤️", "😂", "🎉", "😮", "🙏", "👀", "🔥", "😢", "✅", "🚀", "👩‍💻"}

// compose returns the content of a message: mostly a sentence or two, sometimes many more.
func (g *generator) compose(language int) string {
	l := languages[language]
	var s strings.Builder
	for n := 1 + int(g.rng.ExpFloat64()*0.8); n > 0; n-- {
		if s.Len() > 0 {
			s.WriteString(l.space)
			if g.chance(0.05) {
				s.WriteString("\n")
			}
		}
		if g.chance(0.4) {
			s.WriteString(g.oneOf(l.openers) + l.space)
		}
		s.WriteString(g.numbered(g.oneOf(l.clauses)))
		if l.space != "" {
			s.WriteString(".")
		}
		if g.chance(0.35) {
			s.WriteString(l.space + g.oneOf(l.ends))
		}
	}
	return s.String()
}

func (g *generator) numbered(s string) string {
	return strings.ReplaceAll(s, "#", strconv.Itoa(1+g.among(99_999)))
}

func (g *generator) title(language int) string {
	return g.numbered(g.oneOf(languages[language].titles))
}

func (g *generator) oneOf(list []string) string { return list[g.among(len(list))] }
