"""The words of identifiers and enumerated values: field names, states, formats, and names of models and services.

A name that consists of these words is not a sentence that somebody could read for its meaning. The list therefore has
no word of ordinary speech about people and things. Sources: the field names and enumerations in the official client
libraries of the protocols, and the names of published models and of the servers that speak the protocols.
"""

WORDS = frozenset(
    """
    aac abort aborted above accepted access accessible account accounts accuracy achernar achird acknowledged
    acknowledgement action actions activated active activity actor ada adaptation adapter adapters adaptive add
    added addition additional address admin adoption ads advisor advisory affective after age agent agentic agents
    aggregate aggregation agreements ai aiohttp alaw alert alerts algenib algieba alibaba all allow allowed
    allowlist alloy alnilam alpaca alpha already always am amazon ambiguous amount analytics anchor and annotation
    annotations another answer answered answers anthropic any aoede apac api apierror app appeal append appended
    application applied applies apply approval approve approved approximate apt arch archive archived arctic args
    argument arguments armor arn array artifact artifacts as asc ascending ascii ash ask aspect assertion assessment
    asset assigned assignment assistant assistants asst assume async at attach attachable attached attachment
    attachments attempt attempts attribute attributed attributes attribution audience audio auth authentication
    author authorization authorized auto automatic automation automations autonoe autorater aux available avatar
    average avg avi awake aware awareness away awq aws aya azure babbage back background baichuan baidu balance
    balanced ballad base based baseline bash basic batch batches beacon bearer bedrock before behavior benign best
    beta betas bias bigquery bill billable billing binary binding bio bison bit bitrate bleu blob block blocked
    blocking blocklist bloom blue body bool boolean bos bound boundary bpm bps branch breakpoint brightness browser
    bucket buckets budget budgets buffer built bundle business button by byok bytedance bytes cache cached caching
    calculate call caller callers calling callirrhoe calls cancel canceled canceling cancellation cancelled
    cancelling candidate candidates canny capabilities capability captured cargo carry case categories category
    cedar cells cerebras cert certificate certificates change changed changes channel channels char character
    characters charon charset chat chatcmpl chatglm chatgpt chatkit check checked checkout checkpoint checkpoints
    checks chem choice choices chosen chrome chunk chunking chunks ci cinder citation citations cited city civic
    claim claims class classes claude clear cleared cli click client clone close closed cloud cloudflare cmek cmpl
    code codegemma codegen codellama coder codes codestral codex cohere collection color com command commands
    comment commentary commit committed communication compact compacted compacting compaction comparison compartment
    complete completed completion completions complexity compliance components composite compression computation
    compute computer concise concurrent concurrently condition confidence config configs configuration configured
    confirmation confirmed conflict connect connected connection connector connectors consecutive consent console
    constraints consumed contained container contains content contents context continuation continue continued
    contract control controlled controls conversation conversations conversion cookie coordinate coordinator copy
    coral core corpora corpus correct cosine cost costs count counting country counts cove coverage cowork create
    created creation creator credential credit credits criteria critic cron crop csv ctx curie currency current
    cursor custom customized cwd cyber daily dall dashboard dashscope data databricks dataset datasource datastore
    date datetime davinci day daybreak days db dbrx de deactivated deactivation deadline debug decision decisions
    declarations declined decode decoding decryption deep deepinfra deepseek default defer define definition defs
    degraded delay delegation delete deleted deletion delivery delta deltas demand demo denied dense density deny
    deployed deployment deprecated depth desc descending description design desired desktop despina dest destination
    destinations detached detail detailed details detected detection determination dev developer deviation devstral
    diagnosis diagnostics dialog diarization diarize diarized diff diffusion digest dilation dimensionality
    dimensions direct direction directories directory disable disabled disconnected discount discovery discriminator
    dispatch display distance distill distillation distilled distinct distribution diversity document documents
    dolphin domain domains done doubao double down download downloadable downsize dp dpo draft draining dropbox
    dropped dry dtmf duration during dynamic eager eagerness echo edit editing editor edits effective efficient
    effort efs egress eight elapsed elastic element eligible else email emails embed embedding embeddings ember
    empty en enable enabled enceladus encoded encoding encrypted encryption end ended ending endpoint endpoints
    enforced enforcement enforcer enforcing engaged engine enhanced enterprise entitled entity entra entry enum env
    environment eos ephemeral epoch epochs erasure erinome ernie error errored errors es estimated eta eu eval evals
    evaluate evaluated evaluation evaluations event events exact example examples exceeded excel except exception
    exclude excluded exec executable execution executor exhausted existing exists exit exl exp expected experiment
    experimental experts expiration expire expired expires explanation export expression extended extensions
    external extra extract extraction fable face factor fail failed failure failures falcon fallback fallbacks false
    families family far fast fc feature features federated federation feedback fenrir fetch fetched fidelity field
    fields file filename files filter filtered filters final finalizing financial find fine finetune finetuned
    fingerprint finish finished fireworks first five fixture flac flag flagged flagging flare flash flat flex flight
    flip float flux followup for forecast foreground form format forms formula formulas forward found four fp fps fr
    frame frames free frequency friendly from frontier ft full function functions fuzzy gacrux gateway gb gcp gcs
    gem gemini gemma gen general generate generated generating generation generations geo geography geos get ggml
    gguf gibibyte gif git github gitlab gleam gleu glm glob global gmail gmt google googleapis googlecalendar
    googledrive government gpt gptj gptq gpu graceful grader graders grained grammar granite grant granted grants
    granularities grep grid grok groq grounding group groups gte guest guidance haiku handle handling has hash
    header headers heading health healthy heartbeat height hermes hf high higher hint hints hipaa history hit hits
    host hosted hosts hours hover html http https httpx huge huggingface human hunyuan hybrid hyper hyperbolic
    hyperparameters iapetus ibm id idempotency identifiable identifier identity idle idled ids idx ignore ilike
    image imagen images implicit in inactive include includes inclusion incoming incompatible incomplete increase
    index indices individual inf inference infill info inherited initial initiated inline inlined inpaint input
    inputs insert insertion install installation instruct instruction instructions int integer integrations
    integrity intent interaction interactions interactive interim interleaved internal internlm interpreter
    interpreting interrupt interrupted interruption interrupts interval invalid invite invited invocation
    invocations io ips ipykernel ipython is issued issuer it item items iteration iterations ja jamba javascript
    jitter job jobs jpeg jpg json jsonl jti judge juniper jwks jwt kb keep key keypress keys keywords kimi kind kms
    known ko kore kv label labels lambda landscape language languages laomedeia large lark last lat latest latitude
    layer layers learning lease least leda left legacy legal legend length lepton level levels license lifecycle
    lifetime limit limited limits line lines linked links linux list listing lite litellm literal live llama
    llamacpp llguidance llm lmstudio lng load loaded loading local location lock locked log logging login logit
    logits logout logprob logprobs logs long longitude looked lookup lora loss lossless lost low lte luna lyria mac
    magistral main maintenance major malformed managed management managers manifest manual many mapping maps marin
    markdown marketplace markup mask masks match matchers math mathstral max maximum mb mcp mcptoolu md mean
    medgemma media median medium megabytes member membership memory mention merged meridian mesh message messages
    meta metadata meteor meters method metric metrics micro microsoft microsoftteams mid middle migrated migration
    mime min mini minimal minimax minimum ministral minute minutes mirostat mismatch misplaced miss missed missing
    mistral mistralai mixtral mixture mldev mlock mlx mmap mobile modalities modality mode model modelfile modelinfo
    modelresp models moderation moderations modification modified modifiers moe monitoring month monthly moonshot
    moonshotai more mount mouse mov move mp mpeg mpt ms msg multi multiagent multimodal multiplier music mute muted
    mythos name names namespace nano native natural navigate nebius negative negligible nemo nemotron neox net
    network networking never new newline next nin nine nl no noise non none not note notebook notes notfound notice
    notification nous nova novita now npm null nullable num numa number numeric nvext nvidia oauth obfuscation obj
    object observation oci ocid ocr octet of off office offpeak offset ogg oidc ok old older oldest ollama olmo
    omitted omni on onboarded onboarding once one ongoing only ontology onyx opaque open openai openchat opened
    openrouter operation opt optimization optimized option options opus or orca order ordering org organization
    orientation origin original orus oss other otlp otpm out outcome outlines outlook outlookcalendar outlookemail
    outpaint output outputs overage overall overlap overloaded override overrides oversized overwritten owned owner
    ownership package packages pad padding page pairwise paligemma palm parallel param parameter parameters params
    parasail parent parse parsed parser parsing part partial partially partner parts pass passed passing passthrough
    patch path paths pattern pause paused payment paywall pcm pcma pcmu pdf pdfs peft pem penalize penalties penalty
    pending per percentile period periodic permission permissions perplexity persona personality phase phases phi
    photo phrases picture pil pilot ping pinned pip pipeline pixels pixtral pl place placeholder places plain
    platform play playback played playing plugin plugins plus pm png point pointwise policies policy poll polling
    polyline pool port portrait position positive post potentially powerpoint pragmatic pre prebuilt precondition
    predefined predicate predict predicted prediction predictions preference prefill prefix presence present
    preservation preset presets preview previous prewarm price primary principal prior prioritize priority privacy
    private privileged pro proactive proactivity prob probabilities probability probe processed processing prod
    product products profile profiles program programmatic programs progress proj project projects prominent prompt
    prompts properties property protocol provenance provided provider provisioned psp pt public publication publish
    published publishers pubsub puck pulcherrima purpose pythia python qlora quality quant quantity quantization
    quantize quantized quartz queries query question questions queue queued quota quote quoted qvq qwen qwq rag rai
    ramp range rank ranker ranking rasalgethi rate ratelimit ratings ratio raw rbac reach reached read reader reads
    ready realtime reason reasoner reasoning reasons received recent recipient recipients recitation reclaim
    recommended recording recovered red redacted redirect reduce reduction ref reference references refresh refusal
    refused regeneration regex region registered registration regular reinforcement rejected reka relative release
    remaining remixed remote removal remove removed rename render rendered repeat repetition replace replay
    replicate replicated replication reply report repository reprice req request requested requests require required
    requirements requires rerank rescheduled rescheduling research reset residency resize resolution resolved
    resource resources resp respond responded response responses restart restrict restricted restriction result
    results resumable resume resumed resumption retention retired retirement retires retries retrieval retrieve
    retrieved retry retrying return reusable review revised revocation revoked reward rewards rewrite right ringing
    rlhf role roles rollout root rosalind route routed routes routing row rpc rs rtp rubric rule rules run running
    runs runtime sadachbia sadaltager safe safeguards safety sage sambanova sample sampled sampler samplers samples
    sampling sandbox scale scan schedar schedule scheduled scheduling schema science scim scope scoped scopes score
    scorer scores screenshot screenshots scribble script scroll sdk sdp search searches searching seat second
    seconds secret secrets security seed seek segment segmentation segments selected selection self semantic send
    sender sensitive sensitivity sent sequence sequences served server servers service session sessions set setting
    settings setup severity sft sglang sha share shared sharepoint sheet shell shida shieldgemma shimmer shutdown
    side sign signal signature signed signing silent siliconflow similarity simple single sip sixteen size sizes
    skill skills skip skipped slack sliding slot slots small smart smollm snippet snippets snowflake sol solar sonar
    sonnet soonest sora sort sos source sources space span spawn speaker spec specs speech speeches speed speeds
    spend split spreadsheet spritesheet src srt srtp srvtoolu sse ssml sso stability stabilityai stable stablelm
    stage standard starcoder starling start started starting startup state static statistics stats status statuses
    stderr stdio stdout steer steerable steered steers stemmer step stepid steps still stop stopped stopping storage
    store stored stores str strategy stream streamable streaming strength strict string structured style sub
    subagent subagents subject submit submitted subprotocols subscription succeeded success successful successor
    suffix sulafat sum summaries summarize summarized summary sunburst supervised support supported supports
    suppress suspended sustained svg switch sync syntax system tab table tabs tag tags target task tasks tau teacher
    technical telemetry temp temperature template tempo temporarily tenancy tenant tencent terminal terminate
    terminated terms terra test testing text tfs tgi thebloke think thinking third thirty thought thoughts thread
    threads three threshold throughput thumbnail tie tier tiers time timed timeout timestamp timezone timings tiny
    tinyllama titan title titling to today toggle token tokens too tool tools toolset toolu top topic topk total tp
    trace traces tracing track traffic train trained training transactions transcribe transcript transcription
    transcriptions transcripts transfer transformations transient translation transparency transparent transport
    trigger triggered triggers triple true truncate truncated truncation trust trusted try ttl tts tulu tune tuned
    tuning tunnel tunnels turbo turn turns twelve two typ type types typical ubatch ubuntu ui ulaw ultra ultrafast
    umbriel unattached unauthenticated unauthorized unavailable unbound uncached uncensored unclassified unconfirmed
    undecryptable undetermined unexpected unhealthy unified unimplemented unintended union unique unit unknown
    unlabeled unmute unmuted unpaused unreachable unresolved unresponsive unrestricted unsloth unspecified unstable
    unsupported unverified upcoming update updated updates updating upload uploaded upscale upserted upstream uri
    uris url us usable usage usd use used user users uses utc utf vad valid validated validating validation value
    values variable variables variance variant variation vars vault vector veo verbatim verbose verbosity verdicts
    verification verified verify verse version versioning vertex very vesper vicuna video videos view viewed
    vindemiatrix violation visibility visible vision visual vl vllm vocab vocabulary vocalization voice volcengine
    vram vtt wait waiting wake wandb warn warning warnings watermark wav web webhook webhooks webm webp webrtc
    weekday weekly weight weighted wheel whisper widget width will willow window windows with wizard wizardlm word
    words work worker workers workflow workflows working workload workspace workspaces write writes wrong ws www xai
    xgrammar xhigh xl xml xtc xxl year yes zai zdr zephyr zero zh zhipu zip zoom zubenelgenubi
    """.split()  # noqa: SIM905
)

# Whole values and keys of the protocols that have words of ordinary speech: the categories of content filters.
VALUES = frozenset(
    """
    harm_category_harassment harm_category_hate_speech harm_category_sexually_explicit
    harm_category_dangerous_content harm_category_jailbreak harm_category_civic_integrity harm_category_unspecified
    harm_category_image_hate harm_category_image_dangerous_content harm_category_image_harassment
    harm_category_image_sexually_explicit harm_category_dangerous harm_category_toxicity harm_category_violence
    harm_category_sexual harm_category_medical harm_category_derogatory harm_block_threshold_unspecified
    harm_probability_unspecified harm_severity_unspecified harm_severity_negligible harm_severity_low
    harm_severity_medium harm_severity_high prohibited_content image_prohibited_content spii image_safety hate
    self_harm self-harm self-harm/intent self-harm/instructions self_harm_intent self_harm_instructions sexual
    sexual/minors sexual_minors violence violence/graphic violence_graphic harassment harassment/threatening
    harassment_threatening hate/threatening hate_threatening illicit illicit/violent illicit_violent jailbreak
    profanity protected_material_text protected_material_code indirect_attack ungrounded_material
    dangerous_and_criminal_content prompt_injection cyber_abuse together keep_alive person_generation
    explicit_vad_signal allow_adult dont_allow prominent_people generated_content_prohibited
    generated_image_prohibited prohibited_input_content image_prohibited_input_content white_space_config like
    stop_sequence
    """.split()  # noqa: SIM905
)
