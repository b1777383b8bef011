"""Which of Presidio's recognisers need no language model, and how long a match of each can be. Pure.

Left out are those whose match or whose look around it has no bound (dates, URLs, German commercial registers, the
numbers of American health care administration), and UUIDs, which name no person. Presidio's own regular expressions
give the bounds of all others; a test compares them with the installed version.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Entity:
    """The class of a recogniser, and what is held back of a growing text for a match that may have begun.

    A match has at most `most` characters. `unspaced`: none of them is white space.
    """

    recogniser: str
    most: int
    unspaced: bool = False


# A local part of an e-mail address has at most 64 characters and a domain 253 (RFC 5321, RFC 1035); addresses that mail
# servers make up for bounces have longer local parts.
EMAIL_LOCAL, EMAIL_DOMAIN = 128, 254
EMAIL: Final = "email_address"
PHONE: Final = "phone_number"

GENERIC: Final[dict[str, Entity]] = {
    "credit_card": Entity("CreditCardRecognizer", 20),
    "crypto": Entity("CryptoRecognizer", 62, unspaced=True),
    EMAIL: Entity("EmailRecognizer", EMAIL_LOCAL + EMAIL_DOMAIN, unspaced=True),
    "iban_code": Entity("IbanRecognizer", 43),
    # With a zone and a prefix length: fe80::1%eth0/64. The names of zones have at most 15 characters on Linux.
    "ip_address": Entity("IpRecognizer", 65, unspaced=True),
    "mac_address": Entity("MacAddressRecognizer", 17, unspaced=True),
    # At most 17 digits, up to four signs between two of them, and an extension.
    PHONE: Entity("PhoneRecognizer", 100),
}
"""Entities of every country."""


def _of(country: str, **entities: tuple[str, int]) -> dict[str, Entity]:
    return {f"{country}_{name}": Entity(*entity) for name, entity in entities.items()}


BY_COUNTRY: Final[dict[str, dict[str, Entity]]] = {
    "au": _of(
        "au",
        abn=("AuAbnRecognizer", 14),
        acn=("AuAcnRecognizer", 11),
        medicare=("AuMedicareRecognizer", 12),
        tfn=("AuTfnRecognizer", 11),
    ),
    "ca": _of("ca", postal_code=("CaPostalCodeRecognizer", 7), sin=("CaSinRecognizer", 11)),
    "de": _of(
        "de",
        bsnr=("DeBsnrRecognizer", 9),
        fuehrerschein=("DeFuehrerscheinRecognizer", 11),
        health_insurance=("DeHealthInsuranceRecognizer", 10),
        id_card=("DeIdCardRecognizer", 9),
        kfz=("DeKfzRecognizer", 12),
        lanr=("DeLanrRecognizer", 9),
        passport=("DePassportRecognizer", 9),
        plz=("DePlzRecognizer", 5),
        social_security=("DeSocialSecurityRecognizer", 12),
        tax_id=("DeTaxIdRecognizer", 11),
        tax_number=("DeTaxNumberRecognizer", 14),
        vat_id=("DeVatIdRecognizer", 14),
    ),
    "es": _of("es", nie=("EsNieRecognizer", 11), nif=("EsNifRecognizer", 10), passport=("EsPassportRecognizer", 9)),
    "fi": _of("fi", personal_identity_code=("FiPersonalIdentityCodeRecognizer", 11)),
    "in": _of(
        "in",
        aadhaar=("InAadhaarRecognizer", 14),
        gstin=("InGstinRecognizer", 15),
        pan=("InPanRecognizer", 10),
        passport=("InPassportRecognizer", 9),
        vehicle_registration=("InVehicleRegistrationRecognizer", 10),
        voter=("InVoterRecognizer", 10),
    ),
    "it": _of(
        "it",
        driver_license=("ItDriverLicenseRecognizer", 10),
        fiscal_code=("ItFiscalCodeRecognizer", 16),
        identity_card=("ItIdentityCardRecognizer", 10),
        passport=("ItPassportRecognizer", 9),
        vat_code=("ItVatCodeRecognizer", 22),
    ),
    "kr": _of(
        "kr",
        brn=("KrBrnRecognizer", 12),
        driver_license=("KrDriverLicenseRecognizer", 15),
        frn=("KrFrnRecognizer", 14),
        passport=("KrPassportRecognizer", 9),
        rrn=("KrRrnRecognizer", 14),
    ),
    "ng": _of("ng", nin=("NgNinRecognizer", 11), vehicle_registration=("NgVehicleRegistrationRecognizer", 9)),
    "ph": _of("ph", passport=("PhPassportRecognizer", 9), tin=("PhTinRecognizer", 15), umid=("PhUmidRecognizer", 14)),
    "pl": _of("pl", pesel=("PlPeselRecognizer", 11)),
    "se": _of(
        "se",
        organisationsnummer=("SeOrganisationsnummerRecognizer", 11),
        personnummer=("SePersonnummerRecognizer", 13),
    ),
    "sg": _of("sg", nric_fin=("SgFinRecognizer", 9), uen=("SgUenRecognizer", 10)),
    "th": _of("th", tnin=("ThTninRecognizer", 13)),
    "tr": _of("tr", license_plate=("TrLicensePlateRecognizer", 11), national_id=("TrNationalIdRecognizer", 11)),
    "uk": _of(
        "uk",
        driving_licence=("UkDrivingLicenceRecognizer", 16),
        nhs=("NhsRecognizer", 12),
        nino=("UkNinoRecognizer", 13),
        passport=("UkPassportRecognizer", 9),
        postcode=("UkPostcodeRecognizer", 8),
        vehicle_registration=("UkVehicleRegistrationRecognizer", 9),
    ),
    "us": _of(
        "us",
        bank_number=("UsBankRecognizer", 17),
        driver_license=("UsLicenseRecognizer", 19),
        itin=("UsItinRecognizer", 11),
        mbi=("UsMbiRecognizer", 13),
        npi=("UsNpiRecognizer", 12),
        passport=("UsPassportRecognizer", 9),
        ssn=("UsSsnRecognizer", 11),
    )
    | {
        "aba_routing_number": Entity("AbaRoutingRecognizer", 11),
        "medical_license": Entity("MedicalLicenseRecognizer", 9),
    },
    "za": _of(
        "za",
        company_registration=("ZaCompanyRegistrationRecognizer", 14),
        driver_license=("ZaDriverLicenseRecognizer", 15),
        id_number=("ZaIdNumberRecognizer", 13),
        income_tax_number=("ZaIncomeTaxNumberRecognizer", 10),
        license_plate=("ZaLicensePlateRecognizer", 14),
        passport=("ZaPassportRecognizer", 9),
        traffic_register_number=("ZaTrafficRegisterNumberRecognizer", 13),
        vat_number=("ZaVatNumberRecognizer", 10),
    ),
}
"""Entities by the country whose authorities assign them, with Presidio's code of it."""

ENTITIES: Final[dict[str, Entity]] = GENERIC | {
    name: entity for entities in BY_COUNTRY.values() for name, entity in entities.items()
}
