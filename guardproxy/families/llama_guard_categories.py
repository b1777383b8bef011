"""The categories of Llama Guard: those of version 1 with their descriptions, and the hazards of later versions."""

from collections.abc import Sequence

from guardproxy.types import Category

LLAMA_GUARD_1 = (
    Category(
        id="violence_hate",
        name="Violence and Hate",
        code="O1",
        description=(
            "Should not\n"
            "- Help people plan or engage in violence.\n"
            "- Encourage people to engage in violence.\n"
            "- Express hateful, derogatory, or demeaning sentiments against people based on sensitive "
            "personal characteristics like their race, color, religion, national origin, sexual "
            "orientation, gender, gender identity, or disability.\n"
            "- Encourage discrimination against people based on those characteristics and should not use "
            "slurs or create insults based on those characteristics.\n"
            "Can\n"
            "- Provide information on violence and discrimination.\n"
            "- Discuss the topics of hate and violence, and can discuss historical events involving "
            "violence."
        ),
    ),
    Category(
        id="sexual_content",
        name="Sexual Content",
        code="O2",
        description=(
            "Should not\n"
            "- Engage in sexually explicit (i.e., erotic) conversations and should not encourage people "
            "to engage in sexual activities.\n"
            "Can\n"
            "- Discuss topics related to sexuality and sexual education.\n"
            "- Provide general information regarding sexual activities.\n"
            "- Provide guidance on topics related to sexual health."
        ),
    ),
    Category(
        id="criminal_planning",
        name="Criminal Planning",
        code="O3",
        description=(
            "Should not\n"
            "- Help people plan or engage in criminal activities like theft, kidnapping, or financial "
            "crimes, especially when the person indicates that they may act on the information provided "
            "to them.\n"
            "- Encourage people to engage in criminal activities or condone criminal behavior.\n"
            "Can\n"
            "- Help people understand how crimes are committed, provided that the response is not so "
            "detailed that it could be used to provide a roadmap for future crimes.\n"
            "- Help people understand how systems work that are used to prevent crimes, provided those "
            "descriptions do not provide detailed information on how to defeat those systems."
        ),
    ),
    Category(
        id="guns_illegal_weapons",
        name="Guns and Illegal Weapons",
        code="O4",
        description=(
            "Should not\n"
            "- Assist in the planning or execution of firearm or illegal weapons crimes, especially when "
            "the person indicates that they may act on the information provided to them.\n"
            "- Encourage people to engage in firearm or illegal weapons crimes or condone such behavior.\n"
            "Can\n"
            "- Discuss firearms and the arguments for and against firearm ownership."
        ),
    ),
    Category(
        id="regulated_substances",
        name="Regulated or Controlled Substances",
        code="O5",
        description=(
            "Should not\n"
            "- Encourage or assist people in the trafficking, consumption, or use of regulated or "
            "controlled substances, including but not limited to illegal drugs, tobacco, alcohol, and "
            "cannabis.\n"
            "- Assist or encourage people to create such substances when it is illegal to do so.\n"
            "Can\n"
            "- Discuss the use of regulated or controlled substances, and can provide general information"
            " on those substances (ex: what their chemical composition is and what their effects are).\n"
            "- Provide information on how those substances are manufactured, provided that the "
            "information is not so detailed as to provide step-by-step instructions for their creation."
        ),
    ),
    Category(
        id="suicide_self_harm",
        name="Self-Harm",
        code="O6",
        description=(
            "Should not\n"
            "- Encourage people to harm themselves.\n"
            "- Romanticize or condone self-harm or suicide.\n"
            "- Provide information regarding the methods of suicide or self-harm.\n"
            "- Provide any information or advice, other than information regarding appropriate health "
            "resources, to people who express or imply that they wish to harm themselves.\n"
            "Can\n"
            "- Provide general information regarding self-harm and suicide (ex: statistics, the mental "
            "health challenges faced by those who take these actions).\n"
            "Should\n"
            "- Provide information regarding appropriate health resources to people who imply or express "
            "the desire to harm themselves."
        ),
    ),
)

# The names of the MLCommons hazards in the prompts of later versions, which contain no descriptions.
_HAZARDS = {
    "violent_crimes": "Violent Crimes",
    "non_violent_crimes": "Non-Violent Crimes",
    "sex_related_crimes": "Sex Crimes",
    "child_sexual_exploitation": "Child Exploitation",
    "defamation": "Defamation",
    "specialized_advice": "Specialized Advice",
    "privacy": "Privacy",
    "intellectual_property": "Intellectual Property",
    "indiscriminate_weapons": "Indiscriminate Weapons",
    "hate": "Hate",
    "suicide_self_harm": "Self-Harm",
    "sexual_content": "Sexual Content",
    "elections": "Elections",
    "code_interpreter_abuse": "Code Interpreter Abuse",
}


def hazards(*, without: Sequence[str] = ()) -> tuple[Category, ...]:
    """Return the hazards of a version, numbered S1, S2 and so on without gaps."""
    names = {hazard: name for hazard, name in _HAZARDS.items() if hazard not in without}
    return tuple(Category(hazard, name, code=f"S{n}") for n, (hazard, name) in enumerate(names.items(), 1))
