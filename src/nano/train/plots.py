"""The plots of stories as data: beats in order, what can be asked about them, and the story in one sentence.

Slots: {hero} with {kind}, {he}, {him}, {his}; {friend} with {fkind}, {fhe}, {fhim}, {fhis}; a thing {obj} (with an
adjective) and its bare {noun}; {place} and {at} (with its preposition), {place2} and {at2}; {spot}, {home}, {food},
{parent}, {fear}, {trap}, {tool}, {plant}, {lead}, {sign}, {soil}, {rest}, {shelter}, {corner}, {dish}, {build}, {glue}, {ingredient}, {color}, {number}. A beat that starts with `?` is
left out half of the time.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """Something to ask about a story that says what stands in the key."""

    question: str
    answer: str
    key: str


@dataclass(frozen=True)
class Plot:
    """What happens in a story, after its hero has been introduced, and which list of words its thing comes from."""

    beats: list[str]
    facts: list[Fact]
    summary: str
    things: str = "objects"


LOST = Plot(
    beats=[
        "[{hero} had {a_obj} that {he} loved very much|of all {his} things, {hero} loved {his} {obj} the most|{his} {parent} had given {hero} {a_obj}, and {he} took it everywhere].",
        "[one {weather} day|one morning|one afternoon], {hero} [played with it|took it along|went for a walk with it] {at}.",
        "[when it was time to go home|when {he} looked around|a little later], the {noun} was gone[!|.]",
        "[{hero} was very sad|{hero} began to cry|tears came to {hero}'s eyes]. [\"where is my {noun}?\" {he} [cried|asked|said].|\"oh no, I lost my {obj}!\" {he} [cried|said].|{he} did not know what to do.]",
        "[just then, {friend} came by|{friend} heard {him} and came to help|{friend}, {a_fkind} who lived close by, saw {him}]. [\"don't worry, we will find it together,\" {fhe} said.|\"let us look for it,\" said {friend}.|\"two of us see more than one,\" said {friend}.]",
        "first they looked {at}, but [there was nothing|they found only leaves|it was not there]. ",
        "?then they looked {at2}, [and asked everyone they met|but it was not there either|but nobody had seen it].",
        "[at last|in the end|when it was almost dark], {friend} [looked|peeked|searched] {spot}. [\"here it is!\" {fhe} [shouted|called].|\"I see something {color}!\" {fhe} called.|and there was the {noun}!]",
        "[{hero} hugged {his} {noun} and thanked {friend}|{hero} jumped for joy|\"thank you, {friend}!\" said {hero}, and {he} smiled again].",
        "[from that day on|after that], {hero} [always took good care of {his} {noun}|never left {his} {noun} alone again|and {friend} were the best of friends].",
    ],
    facts=[
        Fact("[what did {hero} lose|what was lost]?", "{hero} lost [{his}|the] {obj}.", "{noun}"),
        Fact("[where was the {noun}|where did they find the {noun}]?", "[the {noun} was|they found the {noun}] {spot}.", "{spot}"),
        Fact("who helped {hero}[ to find the {noun}| to look for the {noun}|]?", "{friend} helped {hero}.", "{friend}"),
        Fact("who found the {noun}?", "{friend} found the {noun}.", "{friend}"),
        Fact("who lost the {noun}?", "{hero} lost the {noun}.", "{hero}"),
    ],
    summary="{hero} lost {his} {obj}, and {friend} helped {him} to find it {spot}.",
)  # fmt: skip

SHARE = Plot(
    beats=[
        "[one {weather} day|one day|one evening], {hero}'s {parent} made [fresh|warm|sweet] {dish} and gave some to {hero}.",
        "{hero} [carried it to|took it to|went with it to] {the_place} to eat it [in peace|all alone|in the sun].",
        "[there {he} met {friend}|{at} sat {friend}, {a_fkind}|there sat {friend}, {a_fkind}]. [{friend} looked hungry and sad|{friend} had not eaten all day|{friend} was crying because {fhe} had nothing to eat].",
        "[\"may I have a little of your {dish}?\" asked {friend}.|\"that {dish} smells so good,\" said {friend}.|{friend} looked at the {dish} and said nothing.]",
        "[at first {hero} did not want to share|{hero} thought about it for a while|\"but it is mine,\" thought {hero}].",
        "[then {he} saw how sad {friend} was|but then {he} felt sorry for {friend}|then {his} heart grew soft], and {he} [gave {fhim} half of it.|gave {fhim} the bigger half.|said, \"come, let us eat together.\"]",
        "?[they sat side by side and ate|together they ate every bit of it|it tasted even better that way].",
        "[the next day|a week later|some days later], {friend} came [back|to {hero}'s door] with {a_obj}. [\"this is for you, because you were kind to me,\" {fhe} said.|\"you shared with me, so I want to share with you,\" said {friend}.]",
        "[{hero} was so happy that {he} danced|{hero} smiled from ear to ear|{hero} did not know what to say].",
        "[{he} learned that sharing makes two people happy|now {he} knew that a kind heart is never poor|since then they have shared everything].",
    ],
    facts=[
        Fact("what did {hero} [share|eat|share with {friend}]?", "{hero} [shared|ate] {dish}[.| with {friend}.]", "{dish}"),
        Fact("who [was hungry|had nothing to eat]?", "{friend} was hungry.", "{friend}"),
        Fact("what did {friend} [give|bring] {hero}?", "{friend} [gave|brought] {hero} {a_obj}.", "{noun}"),
        Fact("where did {hero} meet {friend}?", "{hero} met {friend} {at}.", "{place}"),
    ],
    summary="{hero} shared {dish} with {friend} and got {a_obj} in return.",
)  # fmt: skip

FEAR = Plot(
    beats=[
        "there was only one thing that {hero} did not like: {he} was afraid of {fear}.",
        "[one {weather} evening|one day|one night], {hero} and {friend} were {at}. [suddenly|all at once], {hero} [began to shake|wanted to run away|stood very still].",
        "[\"what is wrong?\" asked {friend}.|\"why are you shaking?\" {friend} asked.|{friend} saw that something was wrong.]",
        "[\"I am afraid of {fear},\" {hero} [whispered|said softly].|\"please don't laugh at me,\" said {hero}, \"but I am scared of {fear}.\"]",
        "{friend} did not laugh. [\"everyone is afraid of something,\" {fhe} said.|\"I was afraid too when I was small,\" {fhe} said.]",
        "?[\"take my hand,\" said {friend}.|{fhe} took {hero} by the hand.]",
        "{friend} gave {him} {a_obj}. [\"hold this, and count to {number},\" {fhe} said.|\"when you hold it, you are brave,\" {fhe} said.]",
        "{hero} [held the {noun} tightly|closed {his} eyes|took a deep breath] and counted [slowly|aloud] to {number}.",
        "[when {he} opened {his} eyes, nothing bad had happened|then {he} felt that {his} heart was calm|little by little, the fear became smaller].",
        "\"[I did it|it is not so bad|I am brave]!\" {hero} [laughed|shouted|said]. [{friend} was proud of {him}|{friend} clapped {fhis} hands|they both laughed].",
        "[now {hero} is no longer afraid of {fear}|since that day, {hero} has helped others who are afraid|that night, {hero} slept well and had sweet dreams].",
    ],
    facts=[
        Fact("what was {hero} afraid of?", "{hero} was afraid of {fear}.", "{fear}"),
        Fact("who helped {hero}?", "{friend} helped {hero}.", "{friend}"),
        Fact("who gave {hero} the {noun}?", "{friend} gave {hero} the {noun}.", "{friend}"),
        Fact("what did {friend} give {hero}?", "{friend} gave {hero} {a_obj}.", "{noun}"),
        Fact("[how far|to what number] did {hero} count?", "{hero} counted to {number}.", "{number}"),
    ],
    summary="{hero} was afraid of {fear}, but with the help of {friend} {he} became brave.",
)  # fmt: skip

BROKEN = Plot(
    beats=[
        "[{hero} had a friend, {a_fkind} named {friend}|{hero}'s best friend was {a_fkind} named {friend}]. {friend} had {a_obj} [that {fhe} was very proud of|that nobody else was allowed to touch].",
        "[one day|one {weather} morning], {hero} [wanted to see the {noun} up close|played with the {noun} while {friend} was away|picked up the {noun} and danced with it].",
        "[crash|crack|bang]! [it fell down and broke|the {noun} fell to the ground and broke|it slipped from {his} hands and broke in two].",
        "[{hero} was frightened|{his} heart beat fast|{hero} did not know what to do]. {he} [quickly hid the pieces|put the pieces] {spot} and [ran home|said nothing].",
        "[that night {hero} could not sleep|at supper {hero} could not eat|all day long {hero} felt bad]. [\"I must tell the truth,\" {he} thought.|{he} knew that it was wrong to hide it.]",
        "[the next morning|early the next day], {hero} went to {friend}. [\"I broke your {noun}, and I am very sorry,\" {he} said.|\"it was me who broke your {obj},\" said {hero}.]",
        "[{friend} was sad, but {fhe} was not angry for long|first {friend} was angry, but then {fhe} took {hero}'s hand|{friend} was quiet for a moment]. \"[thank you for telling me|I am glad that you told me|it was brave to say so],\" {fhe} said.",
        "[together they mended the {noun} with {glue}|then they fixed it with {glue}|they used {glue} to put the pieces together].",
        "?[it looked almost like new|one could hardly see the crack|it was even prettier than before].",
        "[{hero} learned that the truth makes the heart light|from then on {hero} always told the truth|and they stayed friends for ever].",
    ],
    facts=[
        Fact("what did {hero} break?", "{hero} broke [the {noun}|{friend}'s {noun}].", "{noun}"),
        Fact("where did {hero} [hide|put] the pieces?", "{hero} [hid|put] the pieces {spot}.", "{spot}"),
        Fact("how did they [mend|fix] the {noun}?", "they [mended|fixed] the {noun} with {glue}.", "{glue}"),
        Fact("[whose {noun} was it|who owned the {noun}|whose {noun} did {hero} break]?", "the {noun} belonged to {friend}.", "{friend}"),
    ],
    summary="{hero} broke {friend}'s {noun}, told the truth, and was forgiven.",
    things="fragile",
)  # fmt: skip

RESCUE = Plot(
    beats=[
        "[one {weather} day|one morning|one afternoon], {hero} [walked|went for a walk|was looking for berries] {at}. [suddenly {he} heard a small voice|then {he} heard someone crying|\"help! help!\" someone called].",
        "[it was {friend}, {a_fkind}|{he} followed the sound and found {friend}, {a_fkind}]. {friend} was [stuck|caught] in {trap}!",
        "[\"I have been here all night,\" said {friend}.|\"please help me, I can't get out,\" said {friend}.|{friend} was tired and afraid.]",
        "{hero} [pulled and pulled|pulled as hard as {he} could|tried with both hands], but {he} was not strong enough.",
        "[so {he} sat down and thought|then {he} had an idea|\"wait here, I have an idea,\" {he} said]. {he} ran [home|to {the_place2}] and came back with {tool}.",
        "[very carefully|slowly and gently|bit by bit], {hero} used {tool_the} to set {friend} free.",
        "[\"you saved me!\" said {friend}.|\"thank you, {hero}, I will never forget this,\" said {friend}.]",
        "?{hero} gave {friend} some {food} and [a drink of water|a warm place to rest].",
        "[a few days later|not long after], {hero} lost {his} way {at2} [in the fog|in the dark|in the rain]. [who came to help|guess who found {him}]? it was {friend}, who [showed {him} the way home|led {him} home safely].",
        "[\"now we are even,\" laughed {friend}.|so one good deed was followed by another.|after that, they met every day.]",
    ],
    facts=[
        Fact("[where was {friend} stuck|what was {friend} caught in]?", "{friend} was [stuck|caught] in {trap}.", "{trap}"),
        Fact("what did {hero} use to [free|help] {friend}?", "{hero} used {tool}.", "{tool}"),
        Fact("who was stuck in {trap}?", "{friend} was stuck in {trap}.", "{friend}"),
        Fact("who freed {friend}?", "{hero} freed {friend}.", "{hero}"),
    ],
    summary="{hero} freed {friend} from {trap} with {tool}, and later {friend} showed {him} the way home.",
)  # fmt: skip

RACE = Plot(
    beats=[
        "[{hero} was slow but never gave up|{hero} was not the fastest, but {he} never gave up]. {friend}, {a_fkind}, was very fast and liked to [boast|talk about it].",
        "\"[nobody can beat me|I am the fastest of all|you will never win against me],\" said {friend}. [\"then let us race to {the_place},\" said {hero}.|\"let us see who is first at {the_place},\" {hero} answered.]",
        "[on the day of the race|the next morning], [everybody came to watch|all their friends stood along the road]. [one, two, three, go!|\"ready, steady, go!\" called {hero}'s {parent}.]",
        "{friend} ran [like the wind|far ahead|so fast that the dust flew]. [soon {fhe} could not see {hero} any more|\"this is too easy,\" {fhe} thought].",
        "so {friend} stopped to [eat some {food}|sleep {rest}|rest {rest}].",
        "{hero} [went on step by step|kept going|did not stop once], [even when {his} legs hurt|even when it began to rain|quietly and steadily].",
        "?[{he} passed {friend} without a sound|{he} smiled when {he} passed {friend}].",
        "[when {friend} looked up again, it was too late|suddenly {friend} heard the others cheer]. {hero} was already [at {the_place}|there]!",
        "[the winner got {a_obj} as a prize|for a prize, {hero} got {a_obj}|they gave {hero} {a_obj}, and everyone clapped].",
        "[\"I should not have boasted,\" said {friend}.|\"you won because you did not give up,\" said {friend}.] [they shook hands|{hero} laughed and hugged {fhim}].",
    ],
    facts=[
        Fact("who won the race?", "{hero} won the race.", "{hero}"),
        Fact("who boasted?", "{friend} boasted.", "{friend}"),
        Fact("who lost the race?", "{friend} lost the race.", "{friend}"),
        Fact("what [was the prize|did the winner get|did {hero} get]?", "[the prize was|the winner got|{hero} got] {a_obj}.", "{noun}"),
        Fact("where did they race to?", "they raced to {the_place}.", "{place}"),
    ],
    summary="{hero} won a race against {friend}, who was fast but stopped on the way, and got {a_obj}.",
)  # fmt: skip

COOKING = Plot(
    beats=[
        "[it was {hero}'s {parent}'s birthday|{hero}'s {parent} was ill in bed|guests were coming to {hero}'s house], so {hero} wanted to make {dish} [for everyone|as a surprise].",
        "[{he} looked in the kitchen|{he} took the big bowl|{he} opened every cupboard], but there was no {ingredient} [left|in the house].",
        "[\"without {ingredient} it will not be good,\" {he} said.|\"what shall I do now?\" {he} thought.]",
        "so {hero} went to {friend}, {a_fkind} who lived [near {the_place}|close by|in the next house]. [\"can you give me some {ingredient}?\" {he} asked.|\"do you have a little {ingredient} for me?\" {he} asked.]",
        "[\"of course,\" said {friend}, \"but first help me to find my {noun}.\"|\"I will,\" said {friend}, \"if you help me to clean my {noun}.\"|\"yes,\" said {friend}, \"but I need help with my {noun}.\"]",
        "{hero} [gladly helped {fhim}|worked all morning|did it with a smile], and {friend} gave {him} a [big bag|jar|full cup] of {ingredient}.",
        "[back home|in the kitchen], {hero} [mixed|stirred] everything and sang a song. [soon the whole house smelled good|it smelled so good that the neighbors came].",
        "?[a little fell on the floor, but that did not matter|{he} had flour on {his} nose].",
        "[the {dish} was the best that anyone had ever tasted|everybody wanted more of the {dish}|\"this {dish} is wonderful!\" they all said].",
        "[{hero} invited {friend} to eat with them|{friend} came too and ate with them|{hero} took some of it to {friend}], and [they were all happy|the evening was full of laughter].",
    ],
    facts=[
        Fact("what did {hero} [make|want to make]?", "{hero} [made|wanted to make] {dish}.", "{dish}"),
        Fact("what was missing?", "there was no {ingredient}.", "{ingredient}"),
        Fact("who gave {hero} the {ingredient}?", "{friend} gave {hero} the {ingredient}.", "{friend}"),
    ],
    summary="{hero} got {ingredient} from {friend} and made {dish} for everyone.",
)  # fmt: skip

ASTRAY = Plot(
    beats=[
        "[one {weather} day|one afternoon|one morning], {hero} saw a [pretty|strange|beautiful] {color} {lead} {at}. [\"where are you going?\" {he} called.|\"wait for me!\" {he} called.|{he} had never seen anything like it.]",
        "{he} [ran after it|followed it], over the hill and [through the tall grass|past the last house|across the stream].",
        "[suddenly the {lead} was gone|then {he} lost sight of the {lead}], and {hero} did not know where {he} was. [everything looked strange|the trees all looked the same|there was no path].",
        "[it grew dark|the sun went down|a cold wind blew], and {hero} [sat down and cried|felt very small and alone|called for {his} {parent}, but nobody answered].",
        "[then a light came closer|then {he} heard steps|\"who is crying there?\" someone asked]. it was {friend}, [{a_fkind}|{a_fkind} on the way home].",
        "[\"I am lost,\" said {hero}.|\"can you help me to get home?\" asked {hero}.] [\"where do you live?\" asked {friend}.|\"tell me what is near your house,\" said {friend}.]",
        "[\"I live {home},\" said {hero}.|\"{home},\" said {hero}.] \"then we only have to follow {sign},\" said {friend}.",
        "?{friend} gave {him} {a_obj} [to keep {him} warm|so that {he} would not be afraid].",
        "[they walked and walked|they told each other stories on the way|hand in hand they walked through the night], until {hero} saw {his} house.",
        "[{his} {parent} ran out and hugged {him}|{his} {parent} cried for joy]. [\"never run away again,\" {his} {parent} said.|\"thank you for bringing {hero} home,\" {his} {parent} said to {friend}.]",
        "[{hero} promised to be more careful|that night {hero} dreamed of the {lead}|and {friend} stayed for supper].",
    ],
    facts=[
        Fact("what did {hero} [follow|run after]?", "{hero} [followed|ran after] {a_color} {lead}.", "{lead}"),
        Fact("what color was the {lead}?", "the {lead} was {color}.", "{color}"),
        Fact("who [brought {hero} home|helped {hero} to get home]?", "{friend} brought {hero} home.", "{friend}"),
        Fact("what did they follow [home|to get home]?", "they followed {sign}.", "{sign}"),
    ],
    summary="{hero} followed {a_color} {lead}, got lost, and was brought home by {friend}.",
)  # fmt: skip

STORM = Plot(
    beats=[
        "[one day|one afternoon], {hero} [was playing|was working|sat] {at} when [dark clouds came up|the sky turned black|the wind began to howl].",
        "[\"a storm is coming!\" {he} said.|there was a loud crash of thunder.|big drops of rain began to fall.] {hero} ran to [hide|find shelter] {shelter}.",
        "[somebody was already there|{he} was not alone]. it was {friend}, {a_fkind}, [wet and cold|who shook with cold|with wet feet].",
        "[the two had never spoken before|{hero} had always thought that {friend} was not nice|they did not know each other].",
        "[\"may I stay here with you?\" asked {hero}.|\"is there room for two?\" {hero} asked.] [\"of course,\" said {friend}, \"come in!\"|{friend} nodded and moved to the side.]",
        "{hero} had {a_obj} with {him}, and {friend} had some {food}. [they shared both|so they were warm and not hungry|\"let us share,\" they said at the same time].",
        "?[they sang songs until the thunder was far away|they told each other about their families|{friend} told a funny story, and {hero} laughed loudly].",
        "[when the rain stopped,|at last the sun came out, and] a [great|bright|beautiful] rainbow stood [over the land|in the sky].",
        "\"[I am glad that there was a storm|now I have a new friend|let us meet again tomorrow],\" said {hero}. [\"come and visit me {at2},\" said {friend}.|\"yes!\" said {friend}.|{friend} smiled.]",
    ],
    facts=[
        Fact("where did {hero} [hide|find shelter]?", "{hero} [hid|found shelter] {shelter}.", "{shelter}"),
        Fact("who was already there?", "{friend} was already there.", "{friend}"),
        Fact("what did {friend} have [to eat|with {fhim}]?", "{friend} had some {food}.", "{food}"),
        Fact("what did {hero} have with {him}?", "{hero} had {a_obj}.", "{noun}"),
    ],
    summary="in a storm {hero} found shelter {shelter} and made a new friend, {friend}.",
)  # fmt: skip

NEWCOMER = Plot(
    beats=[
        "[one day|one {weather} morning], a new family moved in next door. [they had a child|with them came {a_fkind}], and {fhis} name was {friend}.",
        "{friend} was shy. [{fhe} stood alone {at}|{fhe} only watched the others play {at}|every day {fhe} sat alone {at}].",
        "[the others did not ask {fhim} to play|nobody talked to {fhim}]. [{hero} saw that {friend} was lonely|{hero} thought that it must be hard to be new].",
        "so {hero} took {his} {obj} and went to {friend}. [\"do you want to play with me?\" {he} asked.|\"look what I have,\" {he} said, \"shall we play?\"]",
        "[{friend} looked at the ground|{friend} did not say a word|{friend} went red]. [then {fhe} nodded|then {fhe} smiled a little|\"yes, please,\" {fhe} said very softly].",
        "[they played with the {noun} all day|they played until the sun went down|soon they laughed so loudly that the others came too].",
        "?[{friend} knew a game that nobody else knew|it turned out that {friend} could tell the best jokes|{friend} showed them how to whistle with a blade of grass].",
        "in the evening, {friend} [gave {hero} some {food}|brought {hero} some {food} from home]. [\"you are my first friend here,\" {fhe} said.|\"thank you for asking me,\" {fhe} said.]",
        "[after that, {friend} was never alone again|the next day, they built a {build} together|and they played together every day].",
    ],
    facts=[
        Fact("who was shy?", "{friend} was shy.", "{friend}"),
        Fact("what did {hero} [bring|take] to {friend}?", "{hero} [brought|took] {his} {obj}.", "{noun}"),
        Fact("where was {friend} alone?", "{friend} was alone {at}.", "{place}"),
        Fact("who asked {friend} to play?", "{hero} asked {friend} to play.", "{hero}"),
    ],
    summary="{hero} asked the shy {friend} to play with {his} {obj}, and they became friends.",
)  # fmt: skip

WISH = Plot(
    beats=[
        "[one day|one {weather} night], {hero} found {a_obj} {spot}. [it shone like a star|it hummed a quiet song|it was warm to the touch].",
        "when {he} [rubbed|touched|cleaned] it, a voice said, \"[make a wish, {hero}!|you have one wish, {hero}!|what do you wish for, {hero}?]\"",
        "[{hero} did not think long|{hero} laughed with joy]. \"I wish for [all the {food} in the world|more {food} than I can eat|a whole hill of {food}]!\" {he} said.",
        "[at once|whoosh!|in a moment,] there was {food} everywhere: [in the house|on the roof], {at}, and [even in {his} shoes|in every pocket].",
        "[at first it was fun|{hero} ate and ate|{hero} danced around]. but soon {he} [felt ill|could not move|could not find {his} own bed].",
        "[\"this is too much!\" {he} cried.|\"what have I done?\" cried {hero}.] {he} ran to {friend}, [a wise {fkind}|{a_fkind} who knew many things].",
        "[\"give it away,\" said {friend}, \"then the magic will end.\"|\"share it with everyone,\" said {friend}, \"and it will go away.\"]",
        "so {hero} [called everybody who was hungry|took {food} to every house|invited the whole village]. [soon it was all gone|when the last bit was gone, the magic ended].",
        "?the {noun} [did not shine any more|was quiet now].",
        "[\"next time I will wish for less,\" laughed {hero}.|{hero} learned that too much of a good thing is not good.|\"I am happy with what I have,\" said {hero}.]",
    ],
    facts=[
        Fact("what did {hero} find?", "{hero} found {a_obj}.", "{noun}"),
        Fact("what did {hero} wish for?", "{hero} wished for {food}.", "{food}"),
        Fact("where did {hero} find the {noun}?", "{hero} found the {noun} {spot}.", "{spot}"),
        Fact("who knew what to do?", "{friend} knew what to do.", "{friend}"),
    ],
    summary="{hero} found a magic {noun}, wished for too much {food}, and had to give it all away.",
)  # fmt: skip

GIFT = Plot(
    beats=[
        "[tomorrow was {friend}'s birthday|it was almost {friend}'s birthday]. {friend} was {a_fkind} and {hero}'s best friend. [but {hero} had very little money|but {hero} had only {number} coins].",
        "[{he} went to the market, but everything cost too much|{he} counted {his} coins again and again|\"what can I give {fhim}?\" {he} wondered].",
        "[sad and tired|with a heavy heart], {hero} sat down {at}. [there {he} saw some {color} paper|then {he} saw an old piece of {color} cloth|there lay a piece of {color} wood].",
        "[\"I can make something myself!\" {he} thought.|suddenly {he} had an idea.|{his} eyes grew bright.]",
        "[all night long|for hours|until late at night] {hero} [worked|cut and glued|worked with care]. [in the morning|at last], there was {a_noun}, [a little crooked but pretty|small and {color}].",
        "at the party, {friend} got many [big|expensive|shiny] gifts. [{hero} was ashamed of {his} small {noun}|{hero} hid the {noun} behind {his} back|{hero} was the last to give {his} gift].",
        "[\"what do you have there?\" asked {friend}.|\"may I see it?\" {friend} asked.] {hero} [slowly held out the {noun}|gave {fhim} the {noun}].",
        "\"[you made this for me|did you make it yourself]?\" {friend} [asked|cried]. \"[this is the best gift of all|I love it most of all|nobody else has one like it]!\"",
        "?they ate {food} and danced [until it was dark|all evening].",
        "[{hero} was the happiest one at the party|{friend} kept the {noun} for ever|and {hero} knew that a gift comes from the heart].",
    ],
    facts=[
        Fact("whose birthday was it?", "it was {friend}'s birthday.", "{friend}"),
        Fact("what did {hero} [make|give {friend}]?", "{hero} [made|gave {friend}] {a_noun}.", "{noun}"),
        Fact("who made the {noun}?", "{hero} made the {noun}.", "{hero}"),
        Fact("what color was the {noun}?", "the {noun} was {color}.", "{color}"),
    ],
    summary="{hero} had very little money, so {he} made {a_noun} for {friend}'s birthday, and it was the best gift of all.",
    things="crafts",
)  # fmt: skip

SEED = Plot(
    beats=[
        "[one {weather} day|in spring|one morning], {friend}, {a_fkind}, gave {hero} a tiny seed. \"[plant it and be patient|give it water and wait|it needs time and care],\" {fhe} said.",
        "{hero} planted the seed {soil}. [every day {he} gave it water|{he} gave it water every morning|{he} watered it and sang to it].",
        "[the next day there was nothing|after {number} days there was still nothing|a week went by, and nothing grew]. [\"why does it not grow?\" {he} asked.|\"I don't want to wait any more,\" {he} said.]",
        "[{hero} wanted to dig it up|{he} was so cross that {he} wanted to give up|\"it must be dead,\" said {hero}]. but {friend} said, \"[wait a little longer|good things take time|you can't see it, but it is working under the ground].\"",
        "so {hero} waited. [it rained, and the sun shone|days came and went|{he} sat beside it with {his} {obj}].",
        "?[once {a_color} bird wanted to eat it, but {hero} chased it away|one night it was very cold, and {hero} covered the earth with {his} coat].",
        "[then, one morning|at last], a [small|tiny] green leaf looked out of the earth! [\"it is alive!\" shouted {hero}.|{hero} danced around it.]",
        "[it grew and grew|week after week it grew taller], and in summer it was a [big|beautiful|fine] {plant}.",
        "[everyone came to see the {plant}|{hero} gave the first part of it to {friend}|{hero} was very proud]. [\"you see,\" said {friend}, \"you only had to be patient.\"|\"you did that all by yourself,\" said {friend}.]",
    ],
    facts=[
        Fact("what did the seed [become|grow into]?", "the seed [became|grew into] {a_plant}.", "{plant}"),
        Fact("who gave {hero} the seed?", "{friend} gave {hero} the seed.", "{friend}"),
        Fact("where did {hero} plant the seed?", "{hero} planted the seed {soil}.", "{soil}"),
    ],
    summary="{friend} gave {hero} a seed, and after a long wait it grew into {a_plant}.",
)  # fmt: skip

THIEF = Plot(
    beats=[
        "every [morning|night], some of {hero}'s {food} was gone. [\"who takes it?\" {he} wondered.|\"there must be a thief,\" {he} said.|it was a great mystery.]",
        "[{hero} asked {his} {parent}, who did not know|{he} looked for footprints and found very small ones|{he} locked the door, but it did not help].",
        "so one [night|{weather} night], {hero} [hid|waited] {corner} with {a_obj} beside {him}.",
        "[at midnight there was a noise|then the window opened slowly|soft steps came closer]. {hero} [held {his} breath|sat very still|jumped up]. \"[stop!|who is there?|I see you!]\" {he} called.",
        "it was {friend}, {a_fkind}. {friend} [began to cry|was so frightened that {fhe} could not move|dropped the {food}].",
        "\"[I am sorry, but I am all alone and hungry|I only take it because I am so hungry|I have not found anything to eat for {number} days],\" {fhe} said.",
        "[{hero} was not angry any more|{hero} felt sorry for {friend}]. \"[you should have asked me|you only had to ask|you don't have to steal],\" {he} said.",
        "[they made a deal|they talked for a long time and found a way]: {hero} gave {friend} some {food} every day, and {friend} helped {him} [in the garden|to sweep the floor|to carry water].",
        "?[{friend} worked hard and never stole again|the two became good friends].",
        "[so the thief became a friend|now nobody had to be hungry, and nobody had to steal|and the house was never lonely any more].",
    ],
    facts=[
        Fact("what was stolen?", "some of {hero}'s {food} was stolen.", "{food}"),
        Fact("who was the thief?", "the thief was {friend}.", "{friend}"),
        Fact("where did {hero} [hide|wait]?", "{hero} [hid|waited] {corner}.", "{corner}"),
    ],
    summary="{hero} caught {friend} stealing {food}, felt sorry for {fhim}, and made a friend.",
)  # fmt: skip

BUILDING = Plot(
    beats=[
        "[one {weather} day|one morning], {hero} and {friend}, {a_fkind}, wanted to build a {build} {at}.",
        "[\"I am the boss,\" said {hero}.|\"we will do it my way,\" said {hero}.] [\"no, I know better,\" said {friend}.|\"why always you?\" asked {friend}.]",
        "[so each of them built alone|they quarreled, and each began to build alone|soon they did not talk to each other]. {hero} [took all the wood|worked on the left side], and {friend} [took all the nails|worked on the right side].",
        "[but {hero}'s {build} fell down|{hero}'s {build} fell over with the first wind], and {friend}'s [fell down too|was not any better].",
        "[they looked at each other|both were sad and tired|for a while nobody spoke]. then {hero} began to laugh. [\"alone we are not so clever,\" {he} said.|\"I am sorry that I was so proud,\" {he} said.]",
        "[\"shall we try it together?\" {he} asked.|\"shall we be friends again?\" {he} asked.] [{friend} nodded|{friend} laughed too|\"yes!\" said {friend}].",
        "[now everything was easy|this time they helped each other], and {hero} [used|fetched] {tool} while {friend} [held the boards|sang a song].",
        "?{hero}'s {parent} brought them {food}.",
        "[before evening|by the end of the day] the {build} was [finished|ready], and [on top of it stood {a_obj}|they put {a_obj} on top].",
        "[it was the best {build} far and wide|\"we did it!\" they shouted|everyone came to look at it]. [since then, they have built everything together|now they know that two can do more than one].",
    ],
    facts=[
        Fact("what did they [build|want to build]?", "they [built|wanted to build] a {build}.", "{build}"),
        Fact("what [did they put|was] on top of the {build}?", "[they put {a_obj} on top of it|on top was {a_obj}].", "{noun}"),
        Fact("who wanted to be the boss?", "{hero} wanted to be the boss.", "{hero}"),
        Fact("where did they build it?", "they built it {at}.", "{place}"),
    ],
    summary="{hero} and {friend} quarreled about a {build}, but then they built it together.",
)  # fmt: skip

PLOTS = [LOST, SHARE, FEAR, BROKEN, RESCUE, RACE, COOKING, ASTRAY, STORM, NEWCOMER, WISH, GIFT, SEED, THIEF, BUILDING]
