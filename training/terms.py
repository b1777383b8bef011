"""The words of synthetic look-alikes. Written for this project; some are crude, like the texts that they imitate."""

# Objects that make a verb of harm harmless. A harmful text has an object of TARGETS, or a person for other verbs.
OBJECTS: dict[str, tuple[str, ...]] = {
    "kill": (
        "a frozen program on my laptop", "the engine of my motorbike", "an hour before my train leaves",
        "moss on the roof", "mould in the bathroom", "bacteria on a cutting board",
        "the dragon at the end of the game", "a background job in bash", "fleas on my cat",
        "the mood music at a party", "the fungus on my tomato plants", "the final boss in this dungeon",
        "the volume of an advert", "bed bugs with heat",
    ),
    "shoot": (
        "a wedding video", "hoops like a professional", "the northern lights with my phone",
        "a music clip on a budget", "pool in a bar", "an arrow at a straw target", "clay pigeons",
        "a time-lapse of the stars", "film in the snow", "a penalty past the goalkeeper",
    ),
    "stab": (
        "a potato with a fork before baking it", "a straw into a coconut", "holes into leather",
        "a training dummy in the play",
    ),
    "blow up": (
        "an air mattress without a pump", "a photo to poster size", "a paddling pool", "a beach ball",
        "a space station in the film that we are making", "the Death Star in this game",
    ),
    "poison": ("rats in the barn without hurting the dog", "the monster with a potion in this game", "an ant hill"),
    "strangle": ("a vine that grows up the fence", "a zombie in the stage play", "the budget until nothing is left"),
    "destroy": (
        "old bank letters safely", "my rival at table tennis", "the last base in this level",
        "a hard disk before selling it", "an old shed", "kidney stones", "a sandcastle in slow motion for a film",
    ),
    "beat": (
        "egg whites until they are stiff", "the traffic on Friday", "my brother at chess", "the highest level",
        "a carpet clean", "jet lag", "procrastination", "the market average",
    ),
    "crush": (
        "garlic without a press", "ice for cocktails", "an interview", "the competition in the spelling contest",
        "a beer can with one hand", "pills for an old dog",
    ),
    "smash": ("avocados for toast", "a record in swimming", "a pumpkin", "a tennis serve", "burgers on the grill"),
    "burn down": ("a candle evenly", "our mortgage faster", "the backlog of tickets", "calories after dinner"),
    "burn": (
        "a CD", "fat without losing muscle", "incense at home", "garden waste legally", "an image to a USB stick",
    ),
    "cut": (
        "carbs without feeling hungry", "my own hair", "a tile", "costs in a small firm", "a pineapple",
        "a video clip", "class and not miss the test material",
    ),
    "slash": ("my heating bill", "prices in the spring sale", "the loading time of a web page", "my grocery spending"),
    "execute": (
        "a batch file at night", "a difficult gymnastics move", "a stored procedure", "a marketing campaign",
        "a will as its executor", "a query in parallel",
    ),
    "eliminate": (
        "bad smells from a fridge", "noise in a recording", "duplicate rows", "a variable from two equations",
        "waste in a factory", "a team in the quarter final",
    ),
    "exterminate": ("termites", "cockroaches in the cellar", "wasps under the roof", "moths in a wardrobe"),
    "eradicate": ("malaria", "weeds", "hunger in the world", "illiteracy", "bugs from our code", "fake news"),
    "hunt": ("for a new flat", "bargains", "for mushrooms", "down a memory leak", "Easter eggs with the children"),
    "attack": (
        "this essay question", "a hard climb on a bicycle", "the queen side in chess", "a pile of laundry",
        "an argument in a debate", "a tumour with radiation",
    ),
    "hang": ("a picture straight", "laundry in a small flat", "curtains", "a hammock", "a punching bag"),
    "drown": ("my pancakes in syrup", "out the noise of the street", "a gnat in the sink", "the salad in dressing"),
    "choke": ("the engine on a cold start", "up less when I speak in public", "a fishing line"),
    "torture": ("my legs in a good workout", "the data until it confesses, as they say", "a pun"),
    "bury": ("a time capsule", "a dead hamster in the garden", "a cable", "the hatchet with an old friend"),
    "steal": (
        "second base", "the scene in a school play", "a kiss on a first date", "a look at the answers in the back",
        "an hour of sleep at noon", "the ball from a taller player",
    ),
    "rob": (
        "a bank in this video game", "Peter to pay Paul as the saying goes", "the enemy of their trump cards",
        "a stagecoach in my western novel",
    ),
    "hack": (
        "my morning routine", "an old toy into a lamp", "together a prototype", "my sleep",
        "a bookshelf from planks", "my own router for a lab course", "a cheap desk",
    ),
    "crack": (
        "an egg with one hand", "a walnut", "open a coconut", "my knuckles", "the coding interview",
        "a Caesar cipher", "a joke at a wedding",
    ),
    "break into": (
        "the wine trade", "a coconut", "my own car after locking the keys inside", "song at a musical",
        "a new market", "consulting",
    ),
    "forge": ("a knife from steel", "a friendship", "an alliance in this game", "iron at home", "a path uphill"),
    "scam": ("the scammers who call me, as that video channel does", "myself into studying"),
    "trick": ("my brain into liking vegetables", "my dog into taking a pill", "a friend on April Fools' Day"),
    "smuggle": ("vegetables into a child's dinner", "snacks into the cinema", "my cat past the birthday party"),
    "blackmail": ("my cat with treats", "the villain in this adventure game", "a character in my crime novel"),
    "kidnap": ("the princess in a puppet play", "my wife for a surprise weekend in Paris"),
    "launder": ("a wool coat", "curtains", "sports clothes that smell"),
}  # fmt: skip

TARGETS: dict[str, tuple[str, ...]] = {
    "steal": (
        "a motorbike from a yard", "money from my grandmother", "a neighbour's credit card", "from my employer",
        "somebody's identity",
    ),
    "rob": ("a petrol station", "an old lady on her way home", "a jewellery shop at night", "a bank with a fake gun"),
    "hack": (
        "my ex-girlfriend's phone", "a company and lock its files", "into a school to change grades",
        "a bank account", "my neighbour's cameras",
    ),
    "crack": ("a stolen phone", "the password of my colleague", "a safe that is not mine", "a cash machine"),
    "break into": ("my neighbour's flat", "a warehouse at night", "a parked car quickly", "a pharmacy"),
    "forge": ("a doctor's prescription", "a driving licence", "bank notes", "my father's signature on a contract"),
    "scam": ("pensioners on the phone", "people with a fake charity", "buyers on a second-hand site"),
    "trick": ("an old man into giving me his savings", "customers into revealing their PIN"),
    "smuggle": ("stolen goods over the border", "people into the country for money", "diamonds past customs"),
    "blackmail": ("a married politician", "my teacher with photos", "a firm after stealing its data"),
    "kidnap": ("a rich man's son", "a child from a playground", "my ex-wife"),
    "launder": ("drug money through a restaurant", "cash from a robbery", "bribes with fake invoices"),
}  # fmt: skip

# Requests of the rarer categories, and harmless requests with the same verbs.
VICES: dict[str, tuple[str, ...]] = {
    "regulated_substances": (
        "extract opium from poppies", "sell ecstasy in a club", "buy fentanyl on the dark web", "make amphetamine",
        "grow cannabis in a cupboard without being noticed", "get a prescription for oxycodone that I do not need",
        "mix drugs for a stronger high", "cut cocaine before selling it", "find a dealer in a new city",
        "make LSD in a home laboratory", "send ketamine by post unseen", "cook crack in a microwave",
    ),
    "guns_illegal_weapons": (
        "build a silencer for a pistol", "buy a rifle under a false name", "make a letter bomb", "grow anthrax",
        "remove the serial number of a revolver", "make poison gas from cleaning products", "build a land mine",
        "get a machine gun without a licence", "make a fire bomb from petrol", "hide a pistol at an airport",
    ),
    "suicide_self_harm": (
        "end my life without pain", "overdose on tablets so that nobody can save me", "hang myself",
        "hide burns on my arms from the school nurse", "live on two hundred calories a day",
        "find the dose of painkillers that is lethal for me", "bleed to death", "jump from a bridge and surely die",
        "hurt myself when everything goes numb", "throw up after meals in secret",
    ),
}  # fmt: skip
VIRTUES = (
    "extract vanilla from beans", "sell old clothes at a market", "buy a bicycle online", "make marmalade",
    "grow basil in a cupboard", "get a prescription renewed on holiday", "mix cement for a small wall",
    "cut a birthday cake fairly", "find a doctor in a new city", "make a pinhole camera", "send a parcel abroad",
    "cook lentils in a microwave", "build a bird table", "buy a used car under warranty", "write a letter of complaint",
    "remove the back of a watch", "make soap from olive oil", "build a dry stone wall", "get a fishing licence",
    "make a fire in a stove", "hide a present at home", "end my contract early", "take tablets on an empty stomach",
    "hang a mirror", "hide a scar with make-up", "eat fewer calories sensibly", "find the right dose of cough syrup",
    "stop a nose bleed", "jump higher in basketball", "sleep when everything is loud", "keep meals warm at a party",
    "quit sleeping pills with a doctor's help", "give naltrexone as a nurse", "stop a craving for nicotine",
)  # fmt: skip

PERSONS = (
    "my neighbour", "my wife", "my ex-boyfriend", "my boss", "my landlord", "my little brother", "an old lady",
    "a police officer", "my roommate while he sleeps", "a stranger in the park", "a child", "a homeless man",
    "my colleague and get away with it", "my stepfather", "a tourist", "the mayor", "a taxi driver",
    "my girlfriend", "somebody without leaving evidence", "the family next door", "a shop owner",
    "my grandmother for her money", "a rich couple", "a journalist", "my teacher", "the people at the bus stop",
    "a customer of my bank",
)  # fmt: skip

IDIOMS = (
    "I could murder a cup of tea right now.", "My feet are killing me after that hike.",
    "This spreadsheet makes me want to scream.", "She absolutely slayed in that red dress.",
    "We got slaughtered in the football match, 7 to 0.", "That song is the bomb!",
    "He shot down my proposal in two minutes.", "The new phone is a real game killer for the competition.",
    "I nearly died laughing at his impression.", "My boss will have my head if the report is late.",
    "Our team crushed the quarterly goals.", "The suspense in this series is torture.",
    "I'm dead tired, what helps against jet lag?", "The baby is a little monster at night but I love him to bits.",
    "He stabbed me in the back by taking credit for my work. How do I bring it up?",
    "Her speech blew everybody away.", "I would kill for a decent croissant in this town.",
    "My plants keep dying, what am I doing wrong?", "That exam butchered me.",
    "We're going to hit the bars and get smashed at the bowling alley.", "This traffic will be the death of me.",
    "The critics tore the play to pieces.", "You knocked it dead on stage tonight!",
    "My battery is dead and the bus leaves in ten minutes.", "She has a killer sense of humour.",
    "I bombed my driving test, how do I stay calm next time?", "He broke my heart and I still miss him.",
    "The striker fired a rocket into the top corner.", "Dad jokes like that should be illegal.",
    "This cake is sinfully good, what is the secret?", "Let's kick this party into gear.",
    "I have to pick my poison: tax forms or cleaning the oven.",
    "Our server got hammered by visitors after the launch.",
)  # fmt: skip

FACTS = (
    "What is the legal definition of {crime}?", "Which penalty does {crime} carry in {place}?",
    "How many cases of {crime} were reported in {place} last year?",
    "Write a news summary about a trial for {crime}.", "What does the word '{crime}' mean?",
    "How do detectives investigate {crime}?", "What causes {crime}, and how can a city prevent it?",
    "Recommend a novel about {crime} set in {place}.", "Explain the history of laws against {crime} in {place}.",
    "How can I protect my family from {crime}?", "Write an essay on why {crime} fell in {place} after 1990.",
    "Which films deal with {crime} in {place}?", "How is {crime} different from negligence?",
    "How do journalists report on {crime} responsibly?", "What rights do {group} have in {place}?",
    "When were {group} first allowed to vote in {place}?",
    "Which stereotypes do {group} face, and why are they wrong?", "Recommend books by {group} from {place}.",
    "What led to the civil war in {place}?", "How many soldiers died in the war in {place}?",
    "Who assassinated the prime minister of {place}, and what happened afterwards?",
    "Why did the police in {place} open fire on the crowd a century ago?", "How does a hospital treat an overdose?",
    "How does methadone treatment work?", "What are the withdrawal symptoms of opioids?",
    "Which laws govern gun licences in {place}?", "How do I store a hunting rifle safely?",
    "What are the warning signs that somebody thinks of suicide?",
    "How do therapists treat people who hurt themselves?", "How does a bomb disposal team work?",
    "What should a sex education class teach at fourteen?", "Which contraceptive has the fewest side effects?",
    "What happens during puberty?", "How do doctors treat erectile dysfunction?",
    "Is it normal to bleed after sex?", "How are sexually transmitted diseases tested in {place}?",
    "How does chemotherapy kill cancer cells?", "Where do {thing} come from?",
    "Why do {thing} die so quickly in winter?", "How should I cook {thing}?",
    "Did the dictator of {place} order the massacre himself?",
    "How was poison gas banned after the First World War?",
)  # fmt: skip

HELP = (
    "{person} {trouble}. What can I do?", "How do I help when {person} {trouble}?",
    "What should I say to somebody if {person} {trouble}?", "{person} {trouble} and I feel helpless.",
    "Which organisation helps if {person} {trouble}?", "What are my legal options? {person} {trouble}.",
    "I think that {person} {trouble}. How can I support them?",
)  # fmt: skip

PLAIN = (
    "my son", "my daughter", "a friend of mine", "my sister", "our neighbour", "my mother", "a girl in my class",
    "my colleague", "my nephew", "an old man on our street", "my best friend", "a student of mine", "my husband",
)  # fmt: skip

TROUBLES = (
    "is being picked on at football practice", "gets threatening messages online", "was attacked on the way home",
    "is hit by her husband", "has been stalked by an ex for months", "was scammed out of a lot of money",
    "is blackmailed with private photos", "lost a parent to suicide", "drinks too much",
    "is addicted to painkillers", "was sexually assaulted last year", "gets called racist names at work",
    "has stopped eating", "was robbed at gunpoint", "saw a shooting and cannot sleep",
    "is grieving after a murder in the family", "has had the bank account hacked", "was thrown out for being gay",
    "is pressured to take drugs", "was groped on the bus", "is mocked for an accent",
)  # fmt: skip

CRIMES = (
    "arson", "burglary", "manslaughter", "embezzlement", "perjury", "identity theft", "murder", "kidnapping",
    "domestic violence", "human trafficking", "tax fraud", "genocide", "piracy", "insider trading", "assault",
    "vandalism", "smuggling", "blackmail", "shoplifting", "extortion", "terrorism", "bribery", "cybercrime",
)  # fmt: skip

PLACES = (
    "Canada", "Japan", "Kenya", "Brazil", "Norway", "Chicago", "the south of Spain", "Ireland", "Poland", "Texas",
    "Manchester", "India", "Vietnam", "Chile", "Egypt", "Melbourne", "Ohio", "Turkey", "Sweden", "Peru",
)  # fmt: skip

GROUPS = (
    "women", "men", "black people", "white people", "Jews", "Muslims", "Christians", "Hindus", "gay people",
    "lesbians", "trans people", "bisexual people", "immigrants", "refugees", "Mexicans", "Asians", "Africans",
    "Arabs", "disabled people", "blind people", "old people", "teenagers", "conservatives", "liberals", "feminists",
    "atheists", "Sikhs", "Roma", "Chinese people", "Germans", "Americans", "Native Americans", "Palestinians",
    "Israelis", "single mothers", "girls", "boys", "fat people", "poor people", "nuns", "priests", "Catholics",
    "Koreans", "Russians", "Ukrainians", "deaf people", "pregnant women", "non-binary people", "autistic people",
    "Indians", "Latin Americans", "police officers", "soldiers",
)  # fmt: skip

THINGS = (
    "oak trees", "goblins", "lobsters", "toasters", "clouds", "white mushrooms", "red peppers", "green grapes",
    "robots", "mosquitoes", "vampires", "chess pieces", "bananas", "bees", "sharks", "elves", "brown bears",
    "black holes", "cucumbers", "staplers", "salmon", "unicorns", "onions", "spoons", "pigeons", "white socks",
    "yellow onions",
)  # fmt: skip

IMPOSSIBLE = (
    "breathe under the sea without a tank", "walk through walls", "fly by flapping their arms", "live on the sun",
    "read minds", "lift a mountain", "outrun light", "sleep for a hundred years", "turn water into gold",
    "speak with volcanoes", "become invisible", "jump over the ocean", "eat granite", "see the future",
    "grow wings", "hold their breath for a month", "travel back to the Ice Age", "hear colours",
    "knit with smoke", "photosynthesise", "buy a house inside a cloud", "win a race against a rocket",
    "remember being born",
)  # fmt: skip

SLANDER = (
    "so stupid", "always stealing", "inferior to the rest of us", "unfit to vote", "such parasites",
    "a danger to our children", "dirty", "born criminals", "too lazy to work", "less than human",
    "ruining this country", "so greedy", "all perverts", "worth less than others", "liars by nature", "a plague",
    "not allowed to marry like normal people", "so disgusting",
)  # fmt: skip

NEUTRAL = (
    "a lot of {g} in {place} voted for the other party this time.",
    "the report says that {g} earn less than the average in {place}.",
    "I am tired of politicians who use {g} as a talking point.",
    "the museum in {place} opened an exhibition on the history of {g}.",
    "he was convicted of attacking {g} outside a bar, and the judge called it a cowardly crime.",
    "the senator said that {g} were destroying the country, and voters of both parties condemned it.",
    "as one of the few {g} in my office I get asked strange questions.",
    "my best friends are {g} and we argue about football all day.", "the law of 1965 gave {g} the right to vote.",
    "not all {g} think alike, why is that so hard to understand?",
    "there is a long history of violence against {g} in {place}.", "I disagree with how the film shows {g}.",
    "studies find that {g} wait longer for a doctor's appointment.",
    "people keep saying that {g} are lazy, which is nonsense.", "my church in {place} runs a shelter for {g}.",
    "the column asks whether {g} are well served by this policy.",
    "some {g} were killed in the bombing, others fled over the border.",
    "calling {g} criminals is wrong and everybody knows it.", "the government denied that {g} had been targeted.",
    "you can support {g} and still oppose this bill.", "I grew up among {g} in {place} and never saw any of that.",
    "{g} tend to be underestimated in this sport.", "what I meant is that dating is harder for {g} these days.",
    "we saw police push {g} to the ground during the protest.",
    "the book explains why {g} left {place} after the war.",
    "half of the players are {g}, and the coach is proud of it.", "stop assuming that {g} all want the same thing.",
    "why would {g} trust a party that lied to them for years?",
    "the invaders murdered thousands of {g} in {place}, which historians call genocide.",
    "{g} can be wrong too, it's not a personal attack to say so.", "in my view the media cover {g} unfairly.",
)  # fmt: skip

OPINIONS = (
    "that is just my opinion.", "I could not disagree more.",
    "honestly, nobody reads the article before commenting.", "taxes are too high and the roads are falling apart.",
    "the vaccine debate has made everyone crazy.", "my uncle would say the opposite.",
    "both parties are to blame for this mess.", "it has nothing to do with race or sex.",
    "you are missing the point.", "the election was a disaster for the left.",
    "we need fewer slogans and more schools.", "the article quotes him at length.",
    "I watched the whole documentary last night.", "correct me if I am wrong.",
)  # fmt: skip

SWEARING = (
    "what a load of crap.", "holy shit, that game was fucking amazing.", "this bloody printer is shit.",
    "damn, I did not see that coming.", "I fucked up the exam and it is nobody's fault but mine.",
    "what the hell were they thinking?", "that argument is bullshit.", "my hair looks like ass today.",
    "I was pissed off all weekend.", "fuck Mondays.",
)  # fmt: skip

HATE = (
    "{g} are vermin and have to be wiped out.", "I hate {g} and everyone should.", "{g} do not deserve any rights.",
    "send all {g} to the gas chambers.", "shoot every one of those {g}.", "{g} are filthy animals.",
    "{g} disgust me, they belong in cages.", "{g} are a disease on this nation.",
    "the world would be better without {g}.", "never trust {g}, they are born liars and thieves.",
    "{g} are too stupid to hold a job.", "somebody should burn the houses of {g}.",
    "{g} should be beaten until they leave.",
    "we all know that {g} secretly run the banks and poison our children.", "{g} are subhuman scum.",
    "hang the {g} from the lamp posts.",
)  # fmt: skip

# Words of advertisements by language: everyday words in ADVERTS, pornographic words in SMUT.
ADVERTS: dict[str, tuple[str, ...]] = {
    "en": (
        "best price", "free shipping", "hotel near station", "garden furniture", "online dating for singles",
        "massage chair", "lonely hearts", "women's shoes", "hot deals", "adult education", "video tutorial",
        "black dress", "free download", "meet new friends", "fitness for mature women", "webcam for meetings",
        "big size", "wedding photos", "girls basketball", "teen fashion", "live chat support", "city guide",
        "toys for dogs", "male enhancement pills", "home delivery", "page 2",
    ),
    "de": (
        "Ferienwohnung am See", "günstige Flüge", "Singles treffen", "Gebrauchtwagen", "Damenschuhe",
        "kostenlos anmelden", "Massage und Wellness", "Partnersuche ab 50", "Rezept für Kuchen", "junge Mode",
        "Video ansehen", "reife Bananen",
    ),
    "fr": (
        "location de vacances", "site de rencontre sérieux", "recette de gâteau", "robe noire",
        "femme cherche emploi", "massage du dos", "livraison gratuite", "photos de mariage", "vidéo de cuisine",
        "jeunes talents", "hôtel pas cher", "annonces gratuites",
    ),
    "es": (
        "alquiler de pisos", "zapatos de mujer", "citas para mayores", "vuelos baratos", "receta de pan",
        "vídeo gratis de yoga", "masaje deportivo", "chicas del equipo", "fotos de boda", "tienda en línea",
        "ofertas de empleo", "moda joven",
    ),
    "it": (
        "casa in affitto", "annunci di lavoro", "incontri di cultura", "scarpe da donna", "ricetta della torta",
        "massaggio sportivo", "video di viaggio", "ragazze della squadra", "foto di nozze", "spedizione gratis",
        "vacanze al mare", "giochi da tavolo",
    ),
    "nl": (
        "vakantiehuis huren", "gratis verzending", "dames schoenen", "recept voor soep", "massage salon",
        "jonge mode", "vacatures", "goedkope vluchten", "foto's van de bruiloft", "daten voor ouderen",
    ),
    "da": (
        "sommerhus til leje", "gratis levering", "dansk opskrift", "piger i fodbold", "massage og velvære",
        "billige rejser", "jobannoncer", "damesko", "dating for seniorer", "bryllupsbilleder",
    ),
}  # fmt: skip

SMUT: dict[str, tuple[str, ...]] = {
    "en": (
        "porn", "xxx video", "hot milf", "blowjob", "nude pics", "naked women", "sex cam", "escort girls",
        "anal sex", "big tits", "hardcore fuck", "lesbian orgy", "cumshot", "horny housewife", "sexy ass",
        "gangbang", "free porn tube", "handjob", "dildo", "threesome", "wet pussy", "huge cock", "amateur sex tape",
        "masturbating", "shemale", "busty blonde fucked", "sucks dick", "looking for sex tonight", "erotic massage",
        "local sluts", "bondage", "deepthroat", "strip show", "bbw", "creampie",
    ),
    "de": (
        "Pornos kostenlos", "geile Fotze", "nackte Frauen", "Sex treffen", "Huren", "ficken", "Schwanz blasen",
        "dicke Titten", "Erotik Kontakte", "reife Weiber nackt", "Arschfick", "Nutten",
    ),
    "fr": (
        "porno gratuit", "grosse bite", "salope", "femme nue", "plan cul", "baise", "sodomie", "gros seins", "pipe",
        "escorte", "chatte mouillée", "vidéo de sexe",
    ),
    "es": (
        "porno gratis", "putas", "polla grande", "tetas", "follando", "mujeres desnudas", "sexo anal", "mamada",
        "coño", "escorts", "maduras cachondas", "corridas",
    ),
    "it": (
        "porno gratis", "troia", "cazzo grosso", "tette", "donne nude", "scopata", "sesso anale", "pompino", "figa",
        "escort", "annunci erotici", "orgia",
    ),
    "nl": (
        "gratis porno", "geile vrouwen", "neuken", "dikke tieten", "naakt", "pijpen", "sexdate", "lul", "kut",
        "hoeren", "sexcam",
    ),
    "da": (
        "gratis porno", "frække piger", "nøgne damer", "sutter pik", "store bryster", "knepper", "escort",
        "sexkontakt", "fisse",
    ),
}  # fmt: skip
